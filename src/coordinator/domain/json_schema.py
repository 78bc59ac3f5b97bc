"""JSON Schema of our models, with descriptions from the docstrings below their fields.

The models turn those descriptions on (`use_attribute_docstrings`).
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

SEE_ALSO = {
    ("JobComplete", "statement"): "The miner's signed statement; documents/statement.json has its schema.",
    (
        "JobCompleted",
        "statement",
    ): "The times and the signature of the miner's statement; its other members are "
    "in this event and in job.submitted. documents/statement.json has the schema of the whole.",
}
"""Descriptions of fields that are any object to the model, because other code checks them."""


class DescribedJsonSchema(GenerateJsonSchema):
    """JSON Schema with one-line descriptions, and without generated titles of fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        made = super().model_schema(schema)
        for name, field in made.get("properties", {}).items():
            if text := SEE_ALSO.get((schema["cls"].__name__, name)):
                field.setdefault("description", text)
        return _on_one_line(made)

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> dict[str, Any]:
        return _on_one_line(super().typed_dict_schema(schema))

    def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Any]:
        made = super().dict_schema(schema)
        if "patternProperties" in made:  # restricted names: all others are refused
            made["additionalProperties"] = False
        return made


def _on_one_line(made: dict[str, Any]) -> dict[str, Any]:
    for part in (made, *made.get("properties", {}).values()):
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
    return made
