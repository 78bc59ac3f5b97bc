"""The kind of output that a payload asks for: the same rules for a payload and for the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, get_args

from pydantic import Discriminator, GetJsonSchemaHandler, Tag, TypeAdapter
from pydantic.json_schema import JsonSchemaValue

from coordinator.services.video_transcoding.choices import AudioFormat, MediaFormat, PictureFormat
from coordinator.services.video_transcoding.payloads import (
    ExtractAudio,
    Thumbnail,
    Transcode,
    TranscodeGif,
    TranscodeWebm,
)

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
PAYLOAD: Final[TypeAdapter[VideoPayload]] = TypeAdapter(
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
"""Parses a payload of any kind."""
