"""Base classes and value types of the services' models: strictness, names of files, payload and result.

A payload model is written once: the registry's JSON Schema is generated from it (`json_schema`); the miner's
executor and the typed HTTP endpoint import it. Docstrings of fields are the descriptions in the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Generic, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    model_validator,
    with_config,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeAliasType, TypedDict

from coordinator.domain.matching.needs import Constraints
from coordinator.services.model_names import MODEL_PATTERN as MODEL_PATTERN
from coordinator.services.model_names import ModelName as ModelName

MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON parser keeps exactly."""


# --- primitives --------------------------------------------------------------------------------------------
def _whole(value: object) -> object:
    # JSON Schema calls 23.0 an integer, and some languages cannot write 23.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_null(value: object) -> object:
    if value is None:
        raise ValueError("can't be null; leave it out")
    return value


class _NotNull:
    """Refuses null, also in the schema, for a field whose Python value is None if it was left out."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        inner = schema
        while inner["type"] != "nullable":
            inner = inner["schema"]
        return core_schema.no_info_before_validator_function(
            _not_null, schema, json_schema_input_schema=inner["schema"]
        )


Whole = BeforeValidator(_whole)
NOT_NULL: Final = _NotNull()
"""For an optional field that can't be null: `Annotated[int | None, NOT_NULL] = None`."""
FileRef = TypeAliasType(
    "FileRef",
    Annotated[
        str,
        Field(
            max_length=2048,
            pattern=r"^blob:[0-9a-f]{64}$|^https?://[!-~]{1,2040}$",
            description="A file: blob: and the SHA-256 of an uploaded file, or an http(s) URL of the public "
            "internet, which the miner fetches.",
            json_schema_extra={"format": "uri"},
        ),
    ],
)
"""A payload's field that names an input file. The registry asserts its format `uri`."""
BlobRef = Annotated[str, Field(pattern=r"^blob:[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER), Whole]


class Strict(BaseModel):
    """Unknown fields are refused, values are not converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = handler(schema)
        for field in handler.resolve_ref_schema(made).get("properties", {}).values():
            if field.get("default", 0) is None:  # the field may be left out, as `required` shows
                del field["default"]
        return made


class Either(Strict):
    """A model with exactly one of the fields in EITHER."""

    EITHER: ClassVar[tuple[str, ...]]

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        values = self.__dict__
        if [values[name] is None for name in self.EITHER].count(False) != 1:
            raise ValueError(f"give either {' or '.join(self.EITHER)}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = super().__get_pydantic_json_schema__(schema, handler)
        handler.resolve_ref_schema(made)["oneOf"] = [
            {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in cls.EITHER
        ]
        return made


def _remove_null(schema: JsonSchemaValue) -> None:
    """Remove null from the values that a schema allows."""
    if isinstance(schema.get("type"), list):
        kinds = [kind for kind in schema["type"] if kind != "null"]
        schema["type"] = kinds[0] if len(kinds) == 1 else kinds
    if "enum" in schema:
        schema["enum"] = [choice for choice in schema["enum"] if choice is not None]
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        del schema["anyOf"]
        schema.update(choices[0])


def vram_by_model(gigabytes: Mapping[Any, int]) -> dict[str, Any]:
    """An extension for the schema of `model`: GB of GPU memory by model."""
    return {"x-min-vram-gb": dict(gigabytes)}


# --- payload and result -------------------------------------------------------------------------------------
class Payload(Strict):
    """The input of a job; also the body of a typed endpoint with the same fields or fewer."""

    def needs(self) -> Constraints:
        """The capabilities that a miner must have for this work."""
        return Constraints()

    def contradiction(self) -> str | None:
        """A fault that JSON Schema can't express, as `field: problem`; None if there is none."""
        return None

    def sent(self) -> dict[str, Any]:
        """The payload of the job for a typed body: only the given fields; the others have their defaults."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)


class ResultPart(Strict):
    """A part of a result. A field that is None is left out: the JSON has no null."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = super().__get_pydantic_json_schema__(schema, handler)
        for field in handler.resolve_ref_schema(made)["properties"].values():
            _remove_null(field)
        return made


class Result(ResultPart):
    """The output of a job."""

    def document(self) -> dict[str, Any]:
        """The result as JSON, in the form of the registry's output schema."""
        return self.model_dump(mode="json", exclude_none=True)


MAX_WARNINGS: Final = 20
MAX_WARNING_CHARACTERS: Final = 300
Warnings = Annotated[
    list[Annotated[str, Field(max_length=MAX_WARNING_CHARACTERS)]],
    Field(min_length=1, max_length=MAX_WARNINGS),
]
"""Sentences about a result that is right and yet not all that one may expect; absent if there are none."""


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class OutputFile(TypedDict):
    """An output file of a job."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    blob: BlobRef
    size: Annotated[int, Field(ge=1)]
    """Bytes."""
    media_type: Annotated[str, Field(max_length=100)]


WHOLE_RESULT_TYPE: Final = "application/vnd.coordinator.result+json"
"""The media type of a file with a whole result. No other file of a result has it."""


class LargeResult(Result):
    """A result whose size follows from the model or the input.

    If it is too large for a message, the miner puts all of it into a JSON file, the last of `outputs`. The
    result itself then has only the members that are small.
    """

    LARGE: ClassVar[Mapping[str, Any]]
    """The members that may be large, with their values in a result that has a file."""

    outputs: list[OutputFile] | None = None
    """The whole result as a JSON file, if it is too large for a message."""

    def in_file(self, file: OutputFile) -> Self:
        """The small form of this result, which names the file with all of it."""
        return self.model_copy(update={**self.LARGE, "outputs": [*(self.outputs or ()), file]})


def whole_result_in(result: Mapping[str, Any]) -> str | None:
    """The file with the whole result (`blob:<sha256>`); None if the result itself is whole."""
    match result.get("outputs"):
        case [*_, {"media_type": media_type, "blob": str(ref)}] if media_type == WHOLE_RESULT_TYPE:
            return ref
    return None


P = TypeVar("P", bound=Payload)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True)
class KnownService(Generic[P, R]):
    """A service with models of payload and result."""

    id: str
    """The id of the registry entry."""
    payload: TypeAdapter[P]
    """Parses a payload: `payload.validate_python(…)`."""
    result: type[R]
