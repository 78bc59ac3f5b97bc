"""From HDR or wide colours to BT.709, as a table of colours for ffmpeg's filter `lut3d`. Pure.

Every ffmpeg has that filter, and so the same video gives the same pixels on every miner. ffmpeg's own filters
for this need libzimg or a GPU, and differ between versions.

A colour goes this way:
1. The code value to light: PQ (SMPTE ST 2084) or HLG (ITU-R BT.2100, for a display of 1,000 cd/m²).
2. Brightness by the curve of ITU-R BT.2390-10 section 5.4.1, applied to the greatest of red, green and blue,
   so that hues stay: below the knee nothing changes; the rest bends to 203 cd/m², the white of SDR pictures
   in HDR (ITU-R BT.2408).
3. BT.2020's primaries to BT.709's (ITU-R BT.2087); what BT.709 lacks is cut off.
4. Light to code values for displays of ITU-R BT.1886.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from coordinator.miner.executors.ffmpeg.source import HLG, PQ

TABLE_SIDE: Final = 33
"""Points along each axis of the table; between them the filter interpolates."""
WHITE_NITS: Final = 203.0
USUAL_PEAK_NITS: Final = 1000.0
"""The brightest light of a film that does not say its own; also the nominal peak of HLG."""
MAX_PEAK_NITS: Final = 10_000.0
_DISPLAY_GAMMA: Final = 2.4
_HLG_SYSTEM_GAMMA: Final = 1.2
_LUMA_2020: Final = (0.2627, 0.6780, 0.0593)
_TO_709: Final = (
    (1.660491, -0.587641, -0.072850),
    (-0.124550, 1.132900, -0.008349),
    (-0.018151, -0.100579, 1.118730),
)
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073

Colour = tuple[float, float, float]


def pq_to_nits(code: float) -> float:
    """The light in cd/m² of a PQ code value 0..1."""
    root = code ** (1 / _M2)
    return float(10_000 * (max(root - _C1, 0.0) / (_C2 - _C3 * root)) ** (1 / _M1))


def nits_to_pq(nits: float) -> float:
    """The PQ code value 0..1 of a light in cd/m²."""
    power = (max(nits, 0.0) / 10_000) ** _M1
    return float(((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2)


def hlg_to_scene(code: float) -> float:
    """The light of the scene, 0..1, of an HLG code value 0..1."""
    from math import exp

    return code * code / 3 if code <= 0.5 else (exp((code - _HLG_C) / _HLG_A) + _HLG_B) / 12


def brightness_curve(peak_nits: float) -> Callable[[float], float]:
    """The curve of BT.2390: cd/m² up to `peak_nits` to cd/m² up to WHITE_NITS."""
    peak = nits_to_pq(peak_nits)
    white = nits_to_pq(WHITE_NITS) / peak
    knee = 1.5 * white - 0.5

    def curve(nits: float) -> float:
        code = min(nits_to_pq(nits) / peak, 1.0)
        if code < knee or white >= 1:
            return min(nits, WHITE_NITS)
        t = (code - knee) / (1 - knee)
        bent = (
            (2 * t**3 - 3 * t**2 + 1) * knee
            + (t**3 - 2 * t**2 + t) * (1 - knee)
            + (-2 * t**3 + 3 * t**2) * white
        )
        return pq_to_nits(bent * peak)

    return curve


def to_bt709(transfer: str, peak_nits: float = USUAL_PEAK_NITS) -> Callable[[Colour], Colour]:
    """The function from BT.2020 code values 0..1 of this transfer to those of BT.709.

    Transfers that are neither PQ nor HLG are taken for an SDR display's: only the primaries change.
    """
    curve = brightness_curve(min(max(peak_nits, WHITE_NITS), MAX_PEAK_NITS))

    def light(codes: Colour) -> Colour:
        """In cd/m², on the display."""
        match transfer:
            case "smpte2084":
                return _each(pq_to_nits, codes)
            case "arib-std-b67":
                scene = _each(hlg_to_scene, codes)
                luma = sum(part * weight for part, weight in zip(scene, _LUMA_2020, strict=True))
                gain = USUAL_PEAK_NITS * luma ** (_HLG_SYSTEM_GAMMA - 1) if luma else 0.0
                return _each(lambda part: part * gain, scene)
            case _:
                return _each(lambda code: WHITE_NITS * code**_DISPLAY_GAMMA, codes)

    def convert(codes: Colour) -> Colour:
        nits = light(codes)
        brightest = max(nits)
        if transfer in (PQ, HLG) and brightest > 0:
            gain = curve(brightest) / brightest
            nits = _each(lambda part: part * gain, nits)
        red, green, blue = (
            sum(weight * part for weight, part in zip(row, nits, strict=True)) for row in _TO_709
        )
        return _each(
            lambda part: min(max(part / WHITE_NITS, 0.0), 1.0) ** (1 / _DISPLAY_GAMMA), (red, green, blue)
        )

    return convert


def table(transfer: str, peak_nits: float = USUAL_PEAK_NITS) -> Iterator[str]:
    """The lines of the table, in the format .cube: red changes fastest. Takes some tenths of a second."""
    convert = to_bt709(transfer, peak_nits)
    axis = [number / (TABLE_SIDE - 1) for number in range(TABLE_SIDE)]
    yield f"LUT_3D_SIZE {TABLE_SIDE}\n"
    for blue in axis:
        for green in axis:
            for red in axis:
                yield "{:.6f} {:.6f} {:.6f}\n".format(*convert((red, green, blue)))


def _each(function: Callable[[float], float], colour: Colour) -> Colour:
    return function(colour[0]), function(colour[1]), function(colour[2])
