"""What the services' models share: strictness, names of files and models, and the two ends of a job.

A payload model is written once: the registry's JSON Schema is made of it (`json_schema`), the executor of the
miner and the typed HTTP endpoint import it. Docstrings of fields are the descriptions in the schema.
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

from coordinator.domain.matching import Constraints

MODEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*){0,2}$"
MAX_INTEGER: Final = 2**53 - 1
"""The largest that every JSON parser keeps exactly."""


# --- primitives --------------------------------------------------------------------------------------------
def _whole(value: object) -> object:
    # JSON Schema calls 23.0 an integer, and some languages cannot write it otherwise.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_null(value: object) -> object:
    if value is None:
        raise ValueError("can't be null; leave it out")
    return value


class _NotNull:
    """Refuses null, also in the schema, for a field that Python holds as None where it was left out."""

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
"""For a payload's field that may be left out, and is not null: `Annotated[int | None, NOT_NULL] = None`."""
FileRef = TypeAliasType(
    "FileRef",
    Annotated[
        str,
        Field(
            max_length=2048,
            pattern=r"^blob:[0-9a-f]{64}$|^https?://[!-~]{1,2040}$",
            description="A file: blob: and the SHA-256 of an uploaded one, or an http(s) URL of the public "
            "internet, which the miner fetches.",
            json_schema_extra={"format": "uri"},
        ),
    ],
)
"""A payload's field that names an input file. The format `uri` is what the registry asserts of it."""
BlobRef = Annotated[str, Field(pattern=r"^blob:[0-9a-f]{64}$")]
ModelName = Annotated[str, Field(max_length=100, pattern=MODEL_PATTERN)]
Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER), Whole]


class Strict(BaseModel):
    """Nothing unknown, nothing converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = handler(schema)
        for field in handler.resolve_ref_schema(made).get("properties", {}).values():
            if field.get("default", 0) is None:  # it was left out: that it is not required says so
                del field["default"]
        return made


class Either(Strict):
    """A model that has exactly one of the fields in EITHER."""

    EITHER: ClassVar[tuple[str, ...]]

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if sum(getattr(self, name) is not None for name in self.EITHER) != 1:
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


def _take_null_away(schema: JsonSchemaValue) -> None:
    """Make this the schema of the same values without null."""
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
    """What the schema of `model` has besides: GB of GPU memory by model."""
    return {"x-min-vram-gb": dict(gigabytes)}


# --- the two ends of a job ---------------------------------------------------------------------------------
class Payload(Strict):
    """What a job asks for; also the body of a typed endpoint, where that has the same fields or fewer."""

    def needs(self) -> Constraints:
        """What a miner must have for this work."""
        return Constraints()

    def contradiction(self) -> str | None:
        """What is wrong that JSON Schema can't say, `field: problem`; None where nothing is."""
        return None

    def sent(self) -> dict[str, Any]:
        """The payload of the job that a typed body asks for: what was said; the rest has the defaults."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)


class ResultPart(Strict):
    """A part of a result. A field that is None is left out: there is no null in the document."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = super().__get_pydantic_json_schema__(schema, handler)
        for field in handler.resolve_ref_schema(made)["properties"].values():
            _take_null_away(field)
        return made


class Result(ResultPart):
    """What a job gave."""

    def document(self) -> dict[str, Any]:
        """The result as JSON, as the registry's output schema describes it."""
        return self.model_dump(mode="json", exclude_none=True)


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class OutputFile(TypedDict):
    """A file that a job made."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    blob: BlobRef
    size: Annotated[int, Field(ge=1)]
    """Bytes."""
    media_type: Annotated[str, Field(max_length=100)]


P = TypeVar("P", bound=Payload)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True, slots=True)
class KnownService(Generic[P, R]):
    """A registered service whose payload and result have models here."""

    id: str
    """The registry entry's."""
    payload: TypeAdapter[P]
    """Parses a payload: `payload.validate_python(…)`."""
    result: type[R]
