"""JSON Schema 2020-12 of a service's models, as plain as if it were written by hand.

Each rule is a keyword of its own place: a type that may be null is a list of types, and a choice by the value
of a field is `if` and `then`. So the registry can name the place and the keyword that a payload does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from coordinator.domain.json_schema import Described
from coordinator.services.base import KnownService

_OF_ONE_TYPE: Final = {
    *("type", "examples", "items", "minItems", "maxItems", "uniqueItems"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minLength", "maxLength", "pattern", "format"),
}
"""Keywords that concern values of one type alone: those of several types can stand together."""


class PlainSchema(Described):
    """Without titles, and without unions where a list of types says the same."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("title", None)
        return made

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        made = super().typed_dict_schema(schema)
        made.pop("title", None)
        return made

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        made = super().literal_schema(schema)
        made.pop("type", None)
        return made

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if "enum" in inner:
            return {**inner, "enum": [*inner["enum"], None]}
        return self._together([inner, {"type": "null"}]) or super().nullable_schema(schema)

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"]]
        return self._together([self.generate_inner(choice) for choice in choices]) or super().union_schema(
            schema
        )

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        name = schema["discriminator"]
        if not isinstance(name, str):
            return super().tagged_union_schema(schema)
        choices = {tag: self.generate_inner(choice) for tag, choice in schema["choices"].items()}
        return {
            "type": "object",
            "required": [name],
            "properties": {name: {"enum": list(choices)}},
            "allOf": [
                {"if": {"required": [name], "properties": {name: {"const": tag}}}, "then": choice}
                for tag, choice in choices.items()
            ],
        }

    def _together(self, choices: Sequence[JsonSchemaValue]) -> JsonSchemaValue | None:
        """One schema for values of several types; None where keywords of two of them would meet."""
        made: dict[str, Any] = {}
        types: list[str] = []
        for choice in map(self._written_out, choices):
            kinds = choice.get("type", ())
            kinds = [kinds] if isinstance(kinds, str) else list(kinds)
            rest = {name: value for name, value in choice.items() if name != "type"}
            if not kinds or not choice.keys() <= _OF_ONE_TYPE:
                return None
            if any(made.get(name, value) != value for name, value in rest.items()):
                return None
            types += kinds
            made |= rest
        # A number may be whole.
        types = [kind for kind in types if kind != "integer" or "number" not in types]
        return {"type": types, **made} if len(set(types)) == len(types) else None

    def _written_out(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        """What a reference to a text leads to, without its description."""
        if schema.keys() != {"$ref"}:
            return schema
        found = self.get_schema_from_definitions(schema["$ref"])
        if found is None or found.get("type") != "string":
            return schema
        return {name: value for name, value in found.items() if name != "description"}


def input_schema(service: KnownService[Any, Any]) -> dict[str, Any]:
    """The schema of a service's payloads."""
    return _document(service.payload)


def output_schema(service: KnownService[Any, Any]) -> dict[str, Any]:
    """The schema of a service's results."""
    return _document(TypeAdapter(service.result))


def _document(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    return {"$schema": PlainSchema.schema_dialect, **adapter.json_schema(schema_generator=PlainSchema)}
