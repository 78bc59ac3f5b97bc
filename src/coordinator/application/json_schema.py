"""JSON Schema of our models for people: the docstrings below their fields become descriptions."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

SEE_ALSO = {
    ("JobComplete", "statement"): "The miner's signed statement; its shape is in documents/statement.json.",
    ("JobCompleted", "receipt"): "The signed receipt; its shape is in documents/receipt.json.",
}
"""What the code types as any object, because it is checked elsewhere."""


class Described(GenerateJsonSchema):
    """JSON Schema with the docstrings of fields as their descriptions, and without made-up titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        made = super().model_schema(schema)
        if "description" in made:
            made["description"] = _one_line(made["description"])
        model: type[BaseModel] = schema["cls"]
        docs = field_docs(model)
        for name, member in made.get("properties", {}).items():
            text = docs.get(name) or SEE_ALSO.get((model.__name__, name))
            if text:
                member.setdefault("description", text)
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Any]:
        made = super().dict_schema(schema)
        if "patternProperties" in made:  # the names are restricted: others are refused
            made["additionalProperties"] = False
        return made


@functools.cache
def field_docs(model: type[BaseModel]) -> Mapping[str, str]:
    """The docstrings below a model's fields, its base classes' included."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel or issubclass(RootModel, cls):
            continue
        if cls.__pydantic_generic_metadata__["origin"] is not None:
            continue  # made by a subscript: it has no source
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                docs[field.target.id] = _one_line(text.value.value)
    return docs


def _one_line(text: str) -> str:
    return " ".join(text.split())
