"""Models of services: what they say in JSON Schema, in a result, and beyond what JSON Schema can say."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from coordinator.application.payloads.schema_faults import problems
from coordinator.application.payloads.schemas import compile_schema
from coordinator.services import catalog, checksum
from coordinator.services.base import (
    NOT_NULL,
    Either,
    FileRef,
    KnownService,
    OutputFile,
    Payload,
    Result,
    Strict,
    Whole,
)
from coordinator.services.catalog import load_catalog
from coordinator.services.data_processing import DataPayload, Shuffle, Split
from coordinator.services.json_schema import input_schema, output_schema
from coordinator.services.rendering_3d import RenderPayload
from coordinator.services.speech_recognition import TranscriptSegment
from tests.harness.cases import every

REF = "blob:" + "0123456789abcdef" * 4
ENTRIES = {entry["id"]: entry for entry in load_catalog()}


class Cut(Strict):
    how: Literal["cut"]
    at: Annotated[int, Field(ge=1), Whole]
    until: Annotated[int | None, NOT_NULL] = None


class Turn(Strict):
    how: Literal["turn"]


class ShownPayload(Either, Payload):
    """What a payload may hold, each kind of field once,
    in two lines."""

    EITHER: ClassVar = ("text", "file")

    text: Annotated[Annotated[str, Field(max_length=9)] | None, NOT_NULL] = None
    """A text."""
    file: FileRef | None = None
    size: Literal["small", "large"] | None = None
    seed: Annotated[int, Field(ge=0), Whole] | Annotated[list[int], Field(max_length=4)] | None = None
    steps: tuple[Annotated[Cut | Turn, Field(discriminator="how")], ...] = Field((), strict=False)
    last: Annotated[Cut | None, NOT_NULL] = None


class Shown(Result):
    outputs: list[OutputFile]
    note: Literal["a", "b"] | None = None
    seconds: float | None = None


SHOWN = KnownService("shown", TypeAdapter(ShownPayload), Shown)


def test_a_schema_is_as_plain_as_by_hand() -> None:
    """Docstrings describe, null is a type, one field of several is `oneOf`, a choice by a field is `if`."""
    made = input_schema(SHOWN)
    definitions = made.pop("$defs")

    assert made == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "description": "What a payload may hold, each kind of field once, in two lines.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "text": {"description": "A text.", "type": "string", "maxLength": 9},
            "file": {
                "type": ["string", "null"],
                "format": "uri",
                "maxLength": 2048,
                "pattern": "^blob:[0-9a-f]{64}$|^https?://[!-~]{1,2040}$",
            },
            "size": {"enum": ["small", "large", None]},
            "seed": {
                "type": ["integer", "array", "null"],
                "minimum": 0,
                "maxItems": 4,
                "items": {"type": "integer"},
            },
            "steps": {
                "default": [],
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["how"],
                    "properties": {"how": {"enum": ["cut", "turn"]}},
                    "allOf": [
                        {
                            "if": {"required": ["how"], "properties": {"how": {"const": "cut"}}},
                            "then": {"$ref": "#/$defs/Cut"},
                        },
                        {
                            "if": {"required": ["how"], "properties": {"how": {"const": "turn"}}},
                            "then": {"$ref": "#/$defs/Turn"},
                        },
                    ],
                },
            },
            "last": {"$ref": "#/$defs/Cut"},
        },
        "oneOf": [
            {"required": ["text"], "properties": {"text": {"not": {"type": "null"}}}},
            {"required": ["file"], "properties": {"file": {"not": {"type": "null"}}}},
        ],
    }
    assert definitions["Cut"] == {
        "type": "object",
        "additionalProperties": False,
        "required": ["how", "at"],
        "properties": {
            "how": {"const": "cut"},
            "at": {"type": "integer", "minimum": 1},
            "until": {"type": "integer"},
        },
    }
    assert {"Cut", "Turn"} == set(definitions)


def test_a_result_has_no_nulls() -> None:
    """What a result leaves out is not there, in the document and in the schema; a file has its members."""
    file = OutputFile(name="a.png", blob=REF, size=3, media_type="image/png")
    properties = output_schema(SHOWN)["properties"]

    assert Shown(outputs=[file], note=None).document() == {"outputs": [dict(file)]}
    assert properties["note"] == {"enum": ["a", "b"]}
    assert properties["seconds"] == {"type": "number"}
    assert Shown.model_json_schema()["properties"]["seconds"] == {"title": "Seconds", "type": "number"}
    with pytest.raises(ValidationError):
        Shown(outputs=[OutputFile(name="a.png", blob="a.png", size=3, media_type="image/png")])
    with pytest.raises(ValidationError):
        TranscriptSegment(start=-1, end=0, text="x")


@every(
    ("payload", "accepted"),
    [
        ({"text": "x"}, True),
        ({"file": REF, "seed": 5.0}, True),
        ({"text": "x", "file": None}, True),
        ({"text": None, "file": REF}, False),
        ({"text": "x", "file": REF}, False),
        ({"file": None}, False),
        ({"text": "x", "steps": [{"how": "cut", "at": 2.0}]}, True),
        ({"text": "x", "steps": [{"how": "cut", "at": 2.5}]}, False),
        ({"text": "x", "steps": [{"how": "turn", "at": 2}]}, False),
        ({"text": "x", "steps": [{"at": 2}]}, False),
    ],
)
def test_schema_and_model_agree(payload: dict[str, Any], accepted: bool) -> None:
    """On null, on one of two fields, on whole numbers and on choices."""
    assert accepted == compile_schema(input_schema(SHOWN)).is_valid(payload)
    if accepted:
        assert ShownPayload.model_validate(payload).sent().keys() <= payload.keys()
    else:
        with pytest.raises(ValidationError):
            ShownPayload.model_validate(payload)


@every(
    ("service", "payload", "expected"),
    [
        (
            "audio_processing",
            {"operations": [{"operation": "change_speed", "factor": 5}]},
            "operations/0/factor maximum",
        ),
        ("audio_processing", {"operations": [{"operation": "sing"}]}, "operations/0/operation enum"),
        ("image_generation", {"prompt": "x", "negative_prompt": "x" * 1001}, "negative_prompt maxLength"),
        ("image_generation", {"prompt": "x", "image_url": "http://127.0.0.1/a.png"}, "image_url format"),
        ("video_transcoding", {"crf": 52}, "crf maximum"),
        ("video_transcoding", {"output_format": "webm", "codec": "h264"}, "codec enum"),
        (
            "llm_inference",
            {"model": "m", "messages": [{"role": "user", "content": []}]},
            "messages/0/content minItems",
        ),
        ("3d_rendering", {"frame_start": -1}, "frame_start minimum"),
        (
            "data_processing",
            {"steps": [{"step": "select", "columns": ["a", "a"]}]},
            "steps/0/columns uniqueItems",
        ),
        ("data_processing", {"steps": [{"step": "shuffle"}], "types": {"a": "numbr"}}, "types/a enum"),
        ("data_processing", {"steps": [{"step": "shuffle"}], "types": "guess"}, "types pattern"),
    ],
)
def test_a_fault_is_named_where_it_is(service: str, payload: dict[str, Any], expected: str) -> None:
    """The registry names the field and the keyword, also inside a choice, a list or what may be null."""
    schema = ENTRIES[service]["input_schema"]
    for name in schema.get("required", ()):
        payload.setdefault(name, [REF] if name == "inputs" else REF)
    found = list(problems(compile_schema(schema), payload))

    assert [expected] == [f"{fault.place} {fault.keyword}" for fault in found]


@every(
    ("service", "payload", "place", "wanted", "found"),
    [
        ("video_transcoding", {"crf": "x"}, "crf", "integer or null", "string"),
        ("video_transcoding", {"fps": 1.5}, "fps", "integer or null", "number"),
        ("video_transcoding", {"enlarge": None}, "enlarge", "boolean", "null"),
        ("video_transcoding", {"audio_tracks": 5}, "audio_tracks", "string or array", "integer"),
        ("video_transcoding", {"audio_tracks": [True]}, "audio_tracks/0", "integer or string", "boolean"),
        ("audio_processing", {"operations": {}}, "operations", "array", "object"),
        (
            "audio_processing",
            {"operations": [{"operation": "trim", "start_seconds": "a"}]},
            "operations/0/start_seconds",
            "number",
            "string",
        ),
        ("data_processing", {"types": 5}, "types", "string or object", "integer"),
        (
            "llm_inference",
            {"model": "m", "messages": [{"role": "user", "content": 5}]},
            "messages/0/content",
            "string or array",
            "integer",
        ),
    ],
)
def test_a_wrong_type_is_told_with_the_right_one(
    service: str, payload: dict[str, Any], place: str, wanted: str, found: str
) -> None:
    """Member, expected types and the type that was sent, also where there is a choice."""
    schema = ENTRIES[service]["input_schema"]
    for name in schema.get("required", ()):
        payload.setdefault(name, [REF] if name == "inputs" else REF)
    (fault,) = problems(compile_schema(schema), payload)

    text = f"does not fit the schema's type: {wanted} expected, {found} found"
    assert (place, "type", text) == fault


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (RenderPayload(blend_file_url=REF, frame_start=4, frame_end=4), None),
        (RenderPayload(blend_file_url=REF, frame_end=0), None),
        (
            RenderPayload(blend_file_url=REF, frame_start=4, frame_end=3),
            "frame_end: must not be before frame_start",
        ),
        (
            DataPayload(
                inputs=[REF],
                steps=(Shuffle(step="shuffle"),),
                split=Split(train=0.5, validation=0.1, test=0.1),
            ),
            "split: train, validation and test must sum to 1",
        ),
    ],
)
def test_contradictions_are_told(payload: Payload, expected: str | None) -> None:
    """What is wrong between fields, and JSON Schema can't say, the payload says itself."""
    assert expected == payload.contradiction()


def test_an_entry_names_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of the catalogue can't get another service's schemas."""
    monkeypatch.setattr(checksum, "SERVICE", SHOWN)
    catalog._schemas.cache_clear()
    with pytest.raises(ValueError, match="checksum names the module of shown"):
        load_catalog()
