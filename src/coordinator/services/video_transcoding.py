"""The service `video_transcoding`: converts video and audio, extracts audio, and takes single frames.

One model per kind of output, so that no field depends on another one. The kind follows from `operation` and
`output_format`; either may be left out if the other one is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Discriminator, Field, GetJsonSchemaHandler, Tag, TypeAdapter
from pydantic.json_schema import JsonSchemaValue

from coordinator.domain.matching import Constraints
from coordinator.services.base import (
    FileRef,
    KnownService,
    OutputFile,
    Payload,
    Result,
    Warnings,
    Whole,
)

AudioFormat = Literal["mp3", "m4a", "wav", "flac", "ogg"]
PictureFormat = Literal["jpg", "png"]
MediaFormat = Literal["mp4", "mkv", "webm", "gif", "mp3", "m4a", "wav", "flac", "ogg", "jpg", "png"]
Codec = Literal["h264", "h265", "vp9", "av1", "h264_nvenc", "h265_nvenc", "av1_nvenc"]
Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
Resolution = Annotated[
    str, Field(pattern=r"^[1-9][0-9]{0,2}[02468]x[1-9][0-9]{0,2}[02468]$", examples=["1280x720"])
]
"""WxH in pixels, both even, 10 to 9998, as encoders with halved colour planes require."""
Bitrate = Annotated[
    str,
    Field(pattern=r"^[1-9][0-9]{0,8}$|^[1-9][0-9]{0,5}k$|^[1-9][0-9]{0,2}M$", examples=["800k", "4M"]),
]
"""Bits per second, such as 800k, 4M or 64000; less than 1 G."""
Fps = Annotated[int, Field(ge=1, le=120), Whole]
Crf = Annotated[int, Field(ge=0, le=51), Whole]


class MediaPayload(Payload):
    """The input of every kind of output."""

    input_url: FileRef
    """The video or the recording."""


class Encoding(MediaPayload):
    """The encoding of a video's pictures and sound."""

    preset: Preset = "medium"
    """Slower presets make smaller files."""
    crf: Crf | None = None
    """Constant quality: lower is better. The default is 23 if no bitrate is given."""
    resolution: Resolution | None = None
    """Width and height in pixels, both even."""
    bitrate: Bitrate | None = None
    """Bits per second."""
    fps: Fps | None = None
    """Frames per second."""
    audio_bitrate: Bitrate = "128k"
    """Bits per second."""


class Transcode(Encoding):
    """A video in mp4 or mkv."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["mp4", "mkv"] = "mp4"
    codec: Codec = "h264"
    """Codecs ending in _nvenc need an NVIDIA GPU."""
    audio_codec: Literal["aac", "mp3", "opus"] = "aac"

    def needs(self) -> Constraints:
        return _needs_of(self.codec)


class TranscodeWebm(Encoding):
    """A video in webm, which supports fewer codecs."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["webm"]
    codec: Literal["vp9", "av1"] = "vp9"
    audio_codec: Literal["opus", "vorbis"] = "opus"


class TranscodeGif(MediaPayload):
    """An animation, without sound or a choice of codecs."""

    operation: Literal["transcode"] = "transcode"
    output_format: Literal["gif"]
    resolution: Resolution | None = None
    """Width and height in pixels, both even."""
    fps: Annotated[int, Field(ge=1, le=50), Whole] = 10
    """Frames per second."""


class ExtractAudio(MediaPayload):
    """The sound of a video, or an audio file in another format. wav and flac have no bit rate."""

    operation: Literal["extract_audio"] = "extract_audio"
    output_format: AudioFormat = "m4a"
    audio_bitrate: Bitrate = "128k"
    """Bits per second."""


class Thumbnail(MediaPayload):
    """One frame as an image."""

    operation: Literal["thumbnail"] = "thumbnail"
    output_format: PictureFormat = "jpg"
    at_seconds: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """The frame's moment in the video."""
    resolution: Resolution | None = None
    """Width and height in pixels, both even."""


class TranscodeMedia(Encoding):
    """Video or audio in another format. The registry's schema has the codecs of each format."""

    output_format: MediaFormat = "mp4"
    codec: Codec = "h264"
    """Codecs ending in _nvenc need an NVIDIA GPU."""
    crf: Crf = 23
    """Constant quality, if no bitrate is given: lower is better."""
    audio_codec: Literal["aac", "mp3", "opus", "vorbis"] = "aac"

    def needs(self) -> Constraints:
        return _needs_of(self.codec)


class TranscodedMedia(Result):
    outputs: Annotated[list[OutputFile], Field(min_length=1, max_length=1)]
    output_format: MediaFormat
    duration_seconds: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]{3}$")] | None = None
    """The length of the output; absent for thumbnails."""
    warnings: Warnings | None = None
    """About the source: small faults, and lengths that its format can't prove."""


def _needs_of(codec: str) -> Constraints:
    return Constraints(gpu="nvidia") if codec.endswith("_nvenc") else Constraints()


# --- the kind of output: the same rules for a payload and for the schema ------------------------------------
_BY_OPERATION: Final = {"extract_audio": get_args(AudioFormat), "thumbnail": get_args(PictureFormat)}
"""Operations that are a kind, with the formats that imply the operation."""
_BY_FORMAT: Final = ("webm", "gif")
"""Formats that are a kind of their own."""
_DEFAULT_KIND: Final = "transcode"


def _kind(payload: Any) -> str:
    if not isinstance(payload, Mapping):
        return _DEFAULT_KIND
    operation, output = payload.get("operation"), payload.get("output_format")
    for kind, formats in _BY_OPERATION.items():
        if operation == kind or (operation is None and output in formats):
            return kind
    return output if output in _BY_FORMAT else _DEFAULT_KIND


class _ByKind:
    """Writes the choice as `if` and `then` instead of a union, so that an error names the faulty field."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        kinds = {tag: handler(choice) for tag, choice in schema["choices"].items()}
        made = kinds[_DEFAULT_KIND]
        for output in reversed(_BY_FORMAT):
            made = {"if": _has("output_format", {"const": output}), "then": kinds[output], "else": made}
        for kind, formats in reversed(_BY_OPERATION.items()):
            without = {**_has("output_format", {"enum": list(formats)}), "not": {"required": ["operation"]}}
            condition = {"anyOf": [_has("operation", {"const": kind}), without]}
            made = {"if": condition, "then": kinds[kind], "else": made}
        return {
            "type": "object",
            "required": ["input_url"],
            "properties": {
                "operation": {"enum": [_DEFAULT_KIND, *_BY_OPERATION]},
                "output_format": {"enum": list(get_args(MediaFormat))},
            },
            **made,
        }


def _has(field: str, value: JsonSchemaValue) -> JsonSchemaValue:
    return {"required": [field], "properties": {field: value}}


VideoPayload = Transcode | TranscodeWebm | TranscodeGif | ExtractAudio | Thumbnail
_ADAPTER: Final[TypeAdapter[VideoPayload]] = TypeAdapter(
    Annotated[
        Annotated[Transcode, Tag("transcode")]
        | Annotated[TranscodeWebm, Tag("webm")]
        | Annotated[TranscodeGif, Tag("gif")]
        | Annotated[ExtractAudio, Tag("extract_audio")]
        | Annotated[Thumbnail, Tag("thumbnail")],
        Discriminator(_kind),
        _ByKind(),
    ]
)

SERVICE: Final = KnownService("video_transcoding", _ADAPTER, TranscodedMedia)
