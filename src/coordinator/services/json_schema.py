"""JSON Schema 2020-12 of a service's models, as plain as a hand-written one.

Each rule is a keyword at the place of its value: a nullable type is a list of types, a choice by the value of
a field is `if` and `then`. So the registry can name the place and the keyword that a payload breaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from coordinator.domain.json_schema import DescribedJsonSchema
from coordinator.services.base import KnownService

_OF_ONE_TYPE: Final = {
    *("type", "examples", "items", "minItems", "maxItems", "uniqueItems"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minLength", "maxLength", "pattern", "format"),
}
"""Keywords that concern values of one type only, so that schemas of several types can be merged."""


class PlainSchema(DescribedJsonSchema):
    """Without titles, and with a list of types instead of a union where possible."""

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
        return self._merged([inner, {"type": "null"}]) or super().nullable_schema(schema)

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"]]
        return self._merged([self.generate_inner(choice) for choice in choices]) or super().union_schema(
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

    def _merged(self, choices: Sequence[JsonSchemaValue]) -> JsonSchemaValue | None:
        """One schema for values of several types; None if keywords of two of them would clash."""
        made: dict[str, Any] = {}
        types: list[str] = []
        for choice in map(self._inlined, choices):
            kinds = choice.get("type", ())
            kinds = [kinds] if isinstance(kinds, str) else list(kinds)
            rest = {name: value for name, value in choice.items() if name != "type"}
            if not kinds or not choice.keys() <= _OF_ONE_TYPE:
                return None
            if any(made.get(name, value) != value for name, value in rest.items()):
                return None
            types += kinds
            made |= rest
        # `number` includes `integer`.
        types = [kind for kind in types if kind != "integer" or "number" not in types]
        return {"type": types, **made} if len(set(types)) == len(types) else None

    def _inlined(self, schema: JsonSchemaValue) -> JsonSchemaValue:
        """The target of a reference to a text, without its description; other schemas as they are."""
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
