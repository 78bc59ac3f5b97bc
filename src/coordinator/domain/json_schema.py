"""JSON Schema of our models for people: the docstrings below their fields become descriptions.

The models say so themselves (`use_attribute_docstrings`).
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

SEE_ALSO = {
    ("JobComplete", "statement"): "The miner's signed statement; its shape is in documents/statement.json.",
    ("JobCompleted", "receipt"): "The signed receipt; its shape is in documents/receipt.json.",
}
"""What the code types as any object, because it is checked elsewhere."""


class Described(GenerateJsonSchema):
    """JSON Schema with descriptions on one line, and without made-up titles of fields."""

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
        if "patternProperties" in made:  # the names are restricted: others are refused
            made["additionalProperties"] = False
        return made


def _on_one_line(made: dict[str, Any]) -> dict[str, Any]:
    for part in (made, *made.get("properties", {}).values()):
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
    return made
