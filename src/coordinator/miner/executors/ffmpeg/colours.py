"""How the colours of the output are coded, and the filters that bring them there. Pure.

Whatever is not said by the source is said by the output: players guess by the size, which may have changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.miner.executors.errors import UNSUPPORTED, ExecutorError
from coordinator.miner.executors.ffmpeg.pixel_formats import planar
from coordinator.miner.executors.ffmpeg.source import UNKNOWN, Pictures, Source
from coordinator.miner.executors.ffmpeg.tone_map import USUAL_PEAK_NITS

TABLE_FILE: Final = "tone-map.cube"
"""The name of the colours' table in the job's folder."""
_PRECISE: Final = "flags=bicubic+accurate_rnd+full_chroma_int"
_PASSED_ON: Final = ("bt709", "smpte170m", "bt470bg", "bt2020nc")
"""Matrices that players know."""
_SCALE_NAMES: Final = {"bt709": "bt709", "bt2020nc": "bt2020"}
"""Of matrices, in the filter `scale`; all others of those passed on are bt601."""
_HIGH_DEFINITION: Final = (1280, 720)


@dataclass(frozen=True, slots=True)
class Colours:
    """The coding of the output's colours, in ffmpeg's words."""

    pixel_format: str
    matrix: str
    primaries: str
    transfer: str
    table: tuple[str, float] | None = None
    """The transfer that a table of colours starts from, and its peak in cd/m²."""
    hdr: bool = False

    @property
    def tags(self) -> dict[str, str]:
        """Names of ffmpeg's output options, and their values."""
        said = {
            "-color_range": "tv",
            "-colorspace": self.matrix,
            "-color_primaries": self.primaries,
            "-color_trc": self.transfer,
        }
        return {option: value for option, value in said.items() if value != UNKNOWN}


def colours_of(
    source: Source,
    pictures: Pictures,
    codec: str,
    formats: Collection[str],
    *,
    hdr: str,
    bit_depth: int | None,
    chroma: str,
) -> tuple[Colours, list[str]]:
    """The coding for a video, and warnings. `formats` are the encoder's pixel formats.

    Raises ExecutorError: UNSUPPORTED if the encoder lacks what was asked for (another miner may have it), and
    for Dolby Vision that only its own decoders can show.
    """
    eight, ten = _format(chroma, 8, formats), _format(chroma, 10, formats)
    if ten is None and (hdr == "keep" or bit_depth == 10):
        raise ExecutorError(
            UNSUPPORTED, f"no encoder here makes {codec} of 10 bits, {chroma}", retryable=True
        )
    if eight is None:
        raise ExecutorError(UNSUPPORTED, f"no encoder here makes {codec} of {chroma}", retryable=True)
    if source.dolby_vision == 5:
        raise ExecutorError(
            UNSUPPORTED, "input_url: Dolby Vision of profile 5, whose colours only its own decoders know"
        )
    warnings = []
    if source.dolby_vision is not None:
        warnings.append("Dolby Vision's own data is left out; its base picture is used")
    deep = bit_depth == 10 or (
        bit_depth is None and pictures.format.depth > 8 and not codec.startswith("h264")
    )
    made = ten if deep and ten is not None else eight
    if pictures.hdr and hdr != "tone_map" and made == ten and (hdr == "keep" or not codec.startswith("h264")):
        matrix = "bt2020nc" if pictures.matrix == UNKNOWN else pictures.matrix
        primaries = "bt2020" if pictures.primaries == UNKNOWN else pictures.primaries
        return Colours(made, matrix, primaries, pictures.transfer, hdr=True), warnings
    if pictures.hdr:
        warnings.append("HDR is tone-mapped to BT.709")
    elif pictures.format.depth > 8 and made == eight:
        warnings.append(f"{pictures.format.depth} bits become 8")
    return _sdr(pictures, made), warnings


def colours_of_picture(pictures: Pictures, pixel_format: str) -> Colours:
    """The coding for single pictures and animations: BT.709 if the source is HDR, 8 bits."""
    return _sdr(pictures, pixel_format)


def _sdr(pictures: Pictures, pixel_format: str) -> Colours:
    wide = pictures.primaries == "bt2020" and "10" not in pixel_format
    if pictures.hdr or wide:
        return Colours(pixel_format, "bt709", "bt709", "bt709", (pictures.transfer, peak_of(pictures)))
    if pictures.format.rgb:
        return Colours(pixel_format, "bt709", "bt709", "iec61966-2-1")
    if pictures.matrix in _PASSED_ON:
        return Colours(pixel_format, pictures.matrix, pictures.primaries, pictures.transfer)
    if pictures.matrix != UNKNOWN:
        return Colours(pixel_format, "bt709", pictures.primaries, pictures.transfer)
    guessed = guessed_matrix(pictures)
    transfer = "bt709" if guessed == "bt709" else "smpte170m"
    return Colours(
        pixel_format,
        guessed,
        guessed if pictures.primaries == UNKNOWN else pictures.primaries,
        transfer if pictures.transfer == UNKNOWN else pictures.transfer,
    )


def guessed_matrix(pictures: Pictures) -> str:
    """The matrix of a video that does not say it, as players guess it: by the size."""
    sides = sorted((pictures.width, pictures.height), reverse=True)
    if sides[0] >= _HIGH_DEFINITION[0] or sides[1] >= _HIGH_DEFINITION[1]:
        return "bt709"
    return "bt470bg" if pictures.height in (576, 288) else "smpte170m"


def peak_of(pictures: Pictures) -> float:
    """The brightest light in cd/m²: what the film says, if it can be true."""
    content = pictures.content_light[0] if pictures.content_light else 0
    mastered = pictures.mastering.brightest if pictures.mastering else 0.0
    for nits in (float(content), mastered):
        if 100 <= nits <= 10_000:
            return nits
    return USUAL_PEAK_NITS


def colour_filters(
    pictures: Pictures,
    colours: Colours,
    size: str,
    *,
    full_range: bool = False,
    frame: Sequence[str] = (),
) -> list[str]:
    """The filters from decoded frames to scaled ones in the output's coding.

    `size` is for the filter `scale`. `full_range` is for JPEG, whose matrix is always that of BT.601. The
    filters of `frame` cut and pad: before the colours are halved, where odd sizes are possible.
    """
    first = [size]
    if not pictures.format.rgb:
        matrix = pictures.matrix if pictures.matrix != UNKNOWN else guessed_matrix(pictures)
        if pictures.hdr and pictures.matrix == UNKNOWN:
            matrix = "bt2020nc"
        if matrix in _PASSED_ON:
            first.append(f"in_color_matrix={_scale_name(matrix)}")
        if pictures.full_range:
            first.append("in_range=pc")
    made = colours.pixel_format
    target = [
        f"out_color_matrix={'bt601' if full_range else _scale_name(colours.matrix)}",
        f"out_range={'pc' if full_range else 'tv'}",
    ]
    if "rgb" in made:
        target = []
    through_rgb = colours.table is not None or full_range or (pictures.format.alpha and "a" not in made)
    if not through_rgb:
        flags = [_PRECISE] if pictures.format.rgb or "rgb" in made else []
        return [f"scale={':'.join([*first, *target, *flags])}", f"format={made}", *frame]
    deep = pictures.format.depth > 8
    filters = [f"scale={':'.join([*first, _PRECISE])}"]
    if pictures.format.alpha and "a" not in made:
        # What is transparent becomes black: under it may lie anything.
        filters += [f"format=gbrap{'12le' if deep else ''}", "premultiply=inplace=1"]
    filters.append(f"format=gbrp{'12le' if deep else ''}")
    if colours.table is not None:
        filters.append(f"lut3d=file={TABLE_FILE}:interp=tetrahedral")
    return [*filters, *frame, f"scale={':'.join([*target, _PRECISE])}", f"format={made}"]


def tag_filter(colours: Colours) -> str:
    """The filter that says the colours on every frame."""
    return (
        f"setparams=range=tv:color_primaries={colours.primaries}:color_trc={colours.transfer}"
        f":colorspace={colours.matrix}"
    )


def without_hdr_data(filters: Collection[str]) -> list[str]:
    """Filters that remove what says how bright an HDR film was; a tone-mapped one is no longer so."""
    if "sidedata" not in filters:
        return []
    return [
        f"sidedata=mode=delete:type={kind}" for kind in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
    ]


def _format(chroma: str, depth: int, formats: Collection[str]) -> str | None:
    semi_planar = {8: "nv12", 10: "p010le"}[depth] if chroma == "4:2:0" else ""
    return next((name for name in (planar(chroma, depth), semi_planar) if name in formats), None)


def _scale_name(matrix: str) -> str:
    return _SCALE_NAMES.get(matrix, "bt601")
