"""The values that a payload's JSON Schema accepts: all of an enumeration, bounds and middle of a range."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

ABSENT: Final = object()
"""The field is left out."""
FILE: Final = "input_url"
"""The field that names the input, in every media service."""
_PARSER: Any = vars(re)["_parser"]
_MANY: Final = 1_000
"""A repetition without an end goes on so long at most."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One form of payload: its fields, each with the values to try."""

    name: str
    fields: dict[str, list[Any]]
    enumerated: frozenset[str]
    """The fields whose values are all there are."""


def kinds_of(schema: dict[str, Any]) -> list[Kind]:
    """The forms of payload that a schema has, one for each model behind it."""
    found = {part["title"]: part for part in _objects(schema, schema)}
    return [_kind(title, part, schema) for title, part in found.items()]


def _objects(part: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    part = _resolved(part, root)
    if FILE in part.get("properties", {}):
        yield part
        return
    for name in ("then", "else", "anyOf", "oneOf"):
        inner = part.get(name, [])
        for one in inner if isinstance(inner, list) else [inner]:
            yield from _objects(one, root)


def _kind(title: str, part: dict[str, Any], root: dict[str, Any]) -> Kind:
    fields: dict[str, list[Any]] = {}
    enumerated = set()
    for name, field in part["properties"].items():
        if name == FILE:
            continue
        values = [] if name in part.get("required", ()) else [ABSENT]
        fields[name] = _unique([*values, *values_of(field, root)])
        if "enum" in str(field) or "const" in field or field.get("maximum", 99) - field.get("minimum", 0) < 5:
            enumerated.add(name)
    return Kind(title, fields, frozenset(enumerated))


def values_of(schema: dict[str, Any], root: dict[str, Any]) -> list[Any]:
    """Values that a schema accepts."""
    schema = _resolved(schema, root)
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return list(schema["enum"])
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return [value for one in schema[name] for value in values_of(one, root)]
    given = [*schema.get("examples", ()), *([schema["default"]] if "default" in schema else [])]
    match schema.get("type"):
        case "boolean":
            return [False, True]
        case "null":
            return [None]
        case "integer" | "number":
            low, high = schema["minimum"], schema["maximum"]
            middle = (low + high) / 2
            return [*given, low, int(middle) if schema["type"] == "integer" else middle, high]
        case "string":
            return [*given, *(_strings(schema["pattern"]) if "pattern" in schema else ["x"])]
        case "array":
            fewest = schema.get("minItems", 0)
            each = [[value] for value in values_of(schema["items"], root)]
            several = [[one[0] for one in each[: schema.get("maxItems", 2)]]] if len(each) > 1 else []
            return [*([[]] if fewest == 0 else []), *each, *several]
        case "object":
            return list(_models(schema, root))
        case other:
            raise ValueError(f"no values for the type {other}")


def _models(schema: dict[str, Any], root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An object's fields at one value each, and then each field at its other values."""
    choices = {name: values_of(field, root) for name, field in schema["properties"].items()}
    usual = {name: values[0] for name, values in choices.items() if name in schema.get("required", ())}
    yield usual
    for name, values in choices.items():
        for value in values:
            if usual.get(name, ABSENT) != value:
                yield {**usual, name: value}


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        named: dict[str, Any] = root["$defs"][schema["$ref"].rpartition("/")[2]]
        schema = {**named, **{name: value for name, value in schema.items() if name != "$ref"}}
    return schema


def _unique(values: list[Any]) -> list[Any]:
    return [value for number, value in enumerate(values) if repr(value) not in map(repr, values[:number])]


# --- the strings of a pattern -------------------------------------------------------------------------------
def _strings(pattern: str) -> list[str]:
    """The shortest and the longest string of each alternative of a pattern, of its first and last letters."""
    made = []
    for alternative in pattern.split("|"):
        parsed = _PARSER.parse(alternative)
        made += ["".join(_letters(parsed, longest)) for longest in (False, True)]
    assert all(re.search(pattern, one) for one in made), pattern
    return _unique(made)


def _letters(parsed: Any, longest: bool) -> Iterator[str]:
    for name, argument in parsed:
        match str(name):
            case "AT":
                continue
            case "LITERAL":
                yield chr(argument)
            case "IN":
                yield _last_or_first(argument, longest)
            case "MAX_REPEAT":
                low, high, inner = argument
                for _ in range(min(int(high), _MANY) if longest else low):
                    yield from _letters(inner, longest)
            case "SUBPATTERN":
                yield from _letters(argument[-1], longest)
            case other:
                raise ValueError(f"no strings for {other}")


def _last_or_first(choices: Any, last: bool) -> str:
    letters = itertools.chain.from_iterable(
        range(argument[0], argument[1] + 1) if str(name) == "RANGE" else [argument]
        for name, argument in choices
    )
    return chr(max(letters) if last else min(letters))
