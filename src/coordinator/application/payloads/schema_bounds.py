"""Whether a JSON Schema is bounded: no payload of whatever kind may keep a validator busy.

References lead into the schema itself, and never in a circle; the schema with every reference written out has
at most MAX_PARTS parts. So each value inside a payload is looked at that often at most. Patterns are bounded
by the engine, which takes linear time and knows no look-around.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

MAX_SCHEMA_BYTES: Final = 256 * 1024
MAX_PARTS: Final = 20_000
_ONE: Final = (
    *("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_MANY: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties", "dependentSchemas")


class Unbounded(ValueError):
    """The schema is not bounded; the text says why."""


def check_bounded(schema: Any) -> None:
    """Raise Unbounded if the schema is not bounded."""
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise Unbounded(f"it is larger than {MAX_SCHEMA_BYTES} bytes")
    _Walk(schema).parts(schema)


class _Walk:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._counted: dict[str, int | None] = {}
        """By reference; None while it is being counted."""

    def parts(self, schema: Any, *, root: bool = True) -> int:
        """How many parts this has, with its references written out."""
        if not isinstance(schema, dict):
            return 1
        if not root and "$id" in schema:
            raise Unbounded("$id stands at the top alone")
        if "$dynamicRef" in schema or "$recursiveRef" in schema:
            raise Unbounded("only $ref is taken, which says by itself where it leads")
        count = 1 + sum(self.parts(part, root=False) for part in _inside(schema))
        if "$ref" in schema:
            count += self._behind(schema["$ref"])
        if count > MAX_PARTS:
            raise Unbounded(f"it has more than {MAX_PARTS} parts")
        return count

    def _behind(self, reference: Any) -> int:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise Unbounded("a reference must lead into the schema itself, such as #/$defs/name")
        if reference not in self._counted:
            self._counted[reference] = None
            self._counted[reference] = self.parts(self._resolve(reference), root=False)
        count = self._counted[reference]
        if count is None:
            raise Unbounded("its references lead in a circle")
        return count

    def _resolve(self, reference: str) -> Any:
        found = self._root
        for part in reference.removeprefix("#/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise Unbounded("a reference leads nowhere")
        return found


def _inside(schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas right inside this one; what stands in $defs counts where it is referred to."""
    for keyword in _ONE:
        if keyword in schema:
            yield schema[keyword]
    for keyword in _MANY:
        if isinstance(parts := schema.get(keyword), list):
            yield from parts
    for keyword in _NAMED:
        if isinstance(parts := schema.get(keyword), dict):
            yield from parts.values()
