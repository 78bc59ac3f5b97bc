"""Bounds of JSON Schemas, so that no payload keeps a validator busy.

References must lead into the schema itself and form no cycle. With every reference expanded, the schema has
at most MAX_SUBSCHEMAS subschemas, so that each value of a payload is checked at most that often. Patterns are
few, because each may take milliseconds to compile; the engine takes linear time and has no look-around.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

MAX_SCHEMA_BYTES: Final = 256 * 1024
MAX_SUBSCHEMAS: Final = 2_000
MAX_PATTERNS: Final = 64
CHOICES_PER_SUBSCHEMA: Final = 8
"""So many values of an `enum` count as one subschema: an error copies all of them."""
_ONE: Final = (
    *("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_MANY: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED: Final = ("properties", "patternProperties", "dependentSchemas")


class Unbounded(ValueError):
    """The schema is not bounded; the message has the reason."""


def check_bounded(schema: Any) -> int:
    """The number of subschemas, with references expanded. Raises Unbounded if the schema is not bounded."""
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise Unbounded(f"it is larger than {MAX_SCHEMA_BYTES} bytes")
    counter = _Counter(schema)
    count = counter.count(schema)
    if len(counter.patterns) > MAX_PATTERNS:
        raise Unbounded(f"it has more than {MAX_PATTERNS} patterns")
    return count


class _Counter:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._counted: dict[str, int | None] = {}
        """By reference; None while it is being counted."""
        self.patterns: set[str] = set()

    def count(self, schema: Any, *, root: bool = True) -> int:
        """The number of subschemas, with references expanded."""
        if not isinstance(schema, dict):
            return 1
        if not root and "$id" in schema:
            raise Unbounded("$id is allowed at the top only")
        if "$dynamicRef" in schema or "$recursiveRef" in schema:
            raise Unbounded("$dynamicRef and $recursiveRef are not supported; use $ref")
        count = 1 + sum(self.count(part, root=False) for part in _subschemas(schema))
        if isinstance(choices := schema.get("enum"), list):
            count += len(choices) // CHOICES_PER_SUBSCHEMA
        self.patterns.update(_patterns(schema))
        if "$ref" in schema:
            count += self._count_target(schema["$ref"])
        if count > MAX_SUBSCHEMAS:
            raise Unbounded(f"it has more than {MAX_SUBSCHEMAS} subschemas")
        return count

    def _count_target(self, reference: Any) -> int:
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise Unbounded("a reference must lead into the schema itself, such as #/$defs/name")
        if reference not in self._counted:
            self._counted[reference] = None
            self._counted[reference] = self.count(self._resolve(reference), root=False)
        count = self._counted[reference]
        if count is None:
            raise Unbounded("its references form a cycle")
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
                raise Unbounded("a reference has no target")
        return found


def _subschemas(schema: dict[str, Any]) -> Iterator[Any]:
    """The direct subschemas; those in $defs count where they are referred to."""
    for keyword in _ONE:
        if keyword in schema:
            yield schema[keyword]
    for keyword in _MANY:
        if isinstance(parts := schema.get(keyword), list):
            yield from parts
    for keyword in _NAMED:
        if isinstance(parts := schema.get(keyword), dict):
            yield from parts.values()


def _patterns(schema: dict[str, Any]) -> Iterator[str]:
    if isinstance(pattern := schema.get("pattern"), str):
        yield pattern
    if isinstance(by_name := schema.get("patternProperties"), dict):
        yield from by_name
