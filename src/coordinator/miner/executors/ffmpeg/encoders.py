"""The options of each video encoder: quality, speed and the tags that players need. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, get_args

from coordinator.miner.executors.ffmpeg.colours import Colours
from coordinator.miner.executors.ffmpeg.source import Pictures
from coordinator.miner.executors.media.audio_encoders import bits_per_second
from coordinator.services.video_transcoding import Preset, Transcode, TranscodeWebm

PRESETS: Final = get_args(Preset)
ENCODERS: Final[dict[str, tuple[str, ...]]] = {
    "h264": ("libx264",),
    "h265": ("libx265",),
    "vp9": ("libvpx-vp9",),
    "av1": ("libsvtav1", "libaom-av1"),
    "h264_nvenc": ("h264_nvenc",),
    "h265_nvenc": ("hevc_nvenc",),
    "av1_nvenc": ("av1_nvenc",),
    "gif": ("gif",),
    "jpg": ("mjpeg",),
    "png": ("png",),
    "aac": ("aac",),
    "mp3": ("libmp3lame",),
    "opus": ("libopus",),
    "vorbis": ("libvorbis",),
    "wav": ("pcm_s16le",),
    "flac": ("flac",),
}
"""ffmpeg's encoders for each codec, the preferred one first."""
FAMILIES: Final = ("nvenc", "qsv", "vaapi", "amf", "videotoolbox")
"""Of hardware encoders, the preferred one first."""
_HARDWARE_NAMES: Final = {"h264": "h264", "h265": "hevc", "vp9": "vp9", "av1": "av1"}
HARDWARE: Final[dict[str, tuple[str, ...]]] = {
    codec: tuple(f"{name}_{family}" for family in FAMILIES) for codec, name in _HARDWARE_NAMES.items()
}
"""Hardware encoders for each codec; not all of these exist."""
LEAST_BITRATE: Final = 10_000
"""Below this some encoders refuse to start."""
MOST_BITRATE: Final = {"libsvtav1": 100_000_000}
"""Of encoders that have a limit."""
_WHOLE_BLOCK: Final = 32
"""HEVC's levels from 5 on have no blocks of 16 pixels (H.265 A.4.1), and x265 halves its blocks until one
fits into a picture. A picture with a shorter side has a level below 5, with its sizes and rates."""
_MOST_BITRATE_OF_NARROW: Final = 20_000_000
_LONGEST_OF_NARROW: Final = 4096
_MOST_PIXELS_OF_SLOW: Final = 6016 * 3384
_SLOWEST_OF_LARGE: Final = "slow"
"""SVT-AV1 takes larger frames at its preset 5 and faster ones only."""
_LEAST_SIDES: Final = {"libx265": 16, "libsvtav1": 64, "nvenc": 160, "qsv": 64, "vaapi": 128, "amf": 128}
_DEFAULT_CRF: Final = 23
_MAX_CRF: Final = 51
_LEAST_ADAPTIVE_CRF: Final = 16
"""Of SVT-AV1. Below it (seen up to 8) its adaptive quantization lowers blocks to quantizer 0, which in
AV1 means lossless and has another syntax: no decoder reads that file."""
_SVT_PRESETS: Final = (12, 11, 10, 9, 8, 7, 5, 4, 2)


def family_of(encoder: str) -> str | None:
    """The family of a hardware encoder; None for software."""
    family = encoder.rpartition("_")[2]
    return family if family in FAMILIES else None


def software_of(codec: str) -> str:
    """The codec's name without its hardware."""
    return codec.removesuffix("_nvenc")


def encoders_for(
    payload: Transcode | TranscodeWebm, software: Collection[str], hardware: Collection[str]
) -> list[str]:
    """The encoders to try for the payload, the best one first: the next ones are for what it fails at."""
    codec = software_of(payload.codec)
    made = [name for name in ENCODERS[codec] if name in software]
    if payload.chroma != "4:2:0" and "libaom-av1" in made:
        made = ["libaom-av1"]
    if payload.codec != codec:
        return [*(name for name in ENCODERS[payload.codec] if name in hardware), *made]
    if payload.encoder == "hardware":
        return [*(name for name in HARDWARE[codec] if name in hardware), *made]
    return made


def least_side(encoder: str, longest: int) -> int:
    """The shortest side that the encoder takes of a picture whose other side has `longest` pixels."""
    if encoder == "libx265" and longest > _LONGEST_OF_NARROW:
        return _WHOLE_BLOCK
    return _LEAST_SIDES.get(family_of(encoder) or encoder, 2)


def nearest(
    payload: Transcode | TranscodeWebm, encoder: str, frame: tuple[int, int]
) -> tuple[Transcode | TranscodeWebm, list[str]]:
    """The payload with the nearest values that the encoder takes for this frame, and a warning for each."""
    changes: dict[str, object] = {}
    if payload.bitrate is not None:
        wanted = bits_per_second(payload.bitrate)
        used = min(max(wanted, LEAST_BITRATE), _most_bitrate(encoder, frame))
        if used != wanted:
            changes["bitrate"] = str(used)
    if payload.crf == 0 and (encoder == "libsvtav1" or (encoder == "libx264" and payload.bitrate)):
        changes["crf"] = 1  # 0 is lossless, which SVT-AV1 has not, and x264 only without a limit
    large = frame[0] * frame[1] > _MOST_PIXELS_OF_SLOW
    if encoder == "libsvtav1" and large and PRESETS.index(payload.preset) > PRESETS.index(_SLOWEST_OF_LARGE):
        changes["preset"] = _SLOWEST_OF_LARGE
    size = "{}x{}".format(*frame)
    return payload.model_copy(update=changes), [
        f"{name}: {encoder} has no {getattr(payload, name)} here ({size}); it is {value}"
        for name, value in changes.items()
    ]


def _most_bitrate(encoder: str, frame: tuple[int, int]) -> int:
    if encoder == "libx265" and min(frame) < _WHOLE_BLOCK:
        return _MOST_BITRATE_OF_NARROW
    return MOST_BITRATE.get(encoder, 10**9)


def video_arguments(
    payload: Transcode | TranscodeWebm, encoder: str, colours: Colours, pictures: Pictures
) -> list[str]:
    """The output options of the pictures: encoder, speed, quality, colours and tags."""
    return [
        *("-c:v", encoder),
        *_speed(encoder, PRESETS.index(payload.preset)),
        *_quality(encoder, payload.crf, bits_per_second(payload.bitrate) if payload.bitrate else None),
        *(argument for pair in colours.tags.items() for argument in pair),
        *_hdr_data(encoder, colours, pictures),
        # Apple's players look for this tag and for no other.
        *(["-tag:v", "hvc1"] if payload.codec.startswith("h265") and payload.output_format == "mp4" else []),
    ]


def before_input(encoder: str, device: str | None) -> list[str]:
    """Options before the input: the device that encodes."""
    return ["-vaapi_device", device or ""] if family_of(encoder) == "vaapi" else []


def last_filters(encoder: str, colours: Colours) -> list[str]:
    """Filters that bring frames to a device."""
    if family_of(encoder) is None:
        return []
    packed = "p010le" if "10" in colours.pixel_format else "nv12"
    return [f"format={packed}", *(["hwupload"] if family_of(encoder) == "vaapi" else [])]


def _speed(encoder: str, step: int) -> list[str]:
    match family_of(encoder) or encoder:
        case "libx264" | "libx265":
            return ["-preset", PRESETS[step]]
        case "libvpx-vp9":
            return ["-deadline", "good", "-row-mt", "1", "-cpu-used", str(8 - step)]
        case "libaom-av1":
            return ["-row-mt", "1", "-cpu-used", str(8 - step)]
        case "libsvtav1":
            return ["-preset", str(_SVT_PRESETS[step])]
        case "nvenc":
            return ["-preset", f"p{min(step + 1, 7)}"]
        case "qsv":
            return ["-preset", PRESETS[max(step, 2)]]
        case "amf":
            return ["-quality", ("speed", "balanced", "quality")[step // 3]]
        case _:
            return []  # the device has one speed


def _quality(encoder: str, crf: int | None, bitrate: int | None) -> list[str]:
    """Constant quality, at most the bit rate if there is one; or the bit rate alone."""
    family = family_of(encoder)
    if crf is None and bitrate is not None:
        return [*_RATE_CONTROL.get(family or "", ()), "-b:v", str(bitrate)]
    quality = _DEFAULT_CRF if crf is None else crf
    limit = ["-maxrate", str(bitrate), "-bufsize", str(bitrate)] if bitrate else []
    ceiling = ["-b:v", str(bitrate or 0)]
    # AV1's and VP9's own scale of these devices goes to 255.
    long_scale = round(quality * 255 / _MAX_CRF) if encoder.startswith(("av1", "vp9")) else quality
    match family or encoder:
        case "nvenc":
            return ["-rc", "vbr", "-cq", str(max(quality, 1)), *ceiling]
        case "qsv":
            # 0 would leave the choice to the driver.
            return [
                "-global_quality",
                str(max(quality, 1)),
                *(["-b:v", str(bitrate), *limit] if limit else []),
            ]
        case "vaapi" if bitrate:
            return [
                "-rc_mode",
                "QVBR",
                "-global_quality",
                str(max(long_scale, 1)),
                "-b:v",
                str(bitrate),
                *limit,
            ]
        case "vaapi":
            return ["-rc_mode", "CQP", "-global_quality", str(max(long_scale, 1))]
        case "amf" if bitrate:
            return ["-rc", "qvbr", "-qvbr_quality_level", str(max(quality, 1)), "-b:v", str(bitrate), *limit]
        case "amf":
            return ["-rc", "cqp", "-qp_i", str(long_scale), "-qp_p", str(long_scale)]
        case "videotoolbox":
            # Its scale goes from 1 to 100, and higher is better.
            return ["-q:v", str(max(1, round(100 - quality * 100 / _MAX_CRF))), *limit]
        case "libvpx-vp9" | "libaom-av1":
            # Here the bit rate is the upper limit of the quality mode, and 0 means no limit.
            return ["-crf", str(quality), *ceiling]
        case "libsvtav1":
            adaptive = [] if quality >= _LEAST_ADAPTIVE_CRF else ["-svtav1-params", "aq-mode=0"]
            return ["-crf", str(quality), *(["-maxrate", str(bitrate)] if bitrate else []), *adaptive]
        case _:
            return ["-crf", str(quality), *limit]


_RATE_CONTROL: Final = {"nvenc": ("-rc", "vbr"), "vaapi": ("-rc_mode", "VBR"), "amf": ("-rc", "vbr_peak")}
"""Of hardware that is given a bit rate alone."""


def _hdr_data(encoder: str, colours: Colours, pictures: Pictures) -> list[str]:
    """What x265 is told about a film's brightness: ffmpeg before 7.1 does not pass it on.

    Units of 0.00002 and of 0.0001 cd/m², in the order green, blue, red, white: x265's documentation of
    --master-display.
    """
    if encoder != "libx265" or not colours.hdr:
        return []
    said = ["hdr10=1", "repeat-headers=1"] if colours.transfer == "smpte2084" else ["repeat-headers=1"]
    if pictures.mastering is not None:
        units = [round(part * 50_000) for part in pictures.mastering.chromaticities]
        red, green, blue, white = (f"({units[at]},{units[at + 1]})" for at in (0, 2, 4, 6))
        brightest, darkest = (
            round(nits * 10_000) for nits in (pictures.mastering.brightest, pictures.mastering.darkest)
        )
        said.append(f"master-display=G{green}B{blue}R{red}WP{white}L({brightest},{darkest})")
    if pictures.content_light is not None:
        said.append("max-cll={},{}".format(*pictures.content_light))
    return ["-x265-params", ":".join(said)]
