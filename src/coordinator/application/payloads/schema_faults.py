"""The faults of a document in words: the place, what the schema wants there, and no values of the document.

Where a schema has alternatives (`anyOf`, `oneOf`), the fault is that of the alternative that was meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import jsonschema_rs

MAX_LIMIT_TOLD: Final = 200
TOLD_KEYWORDS: Final = (
    *("enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "pattern"),
)
"""Those whose value in the schema tells a client what to send."""
_TYPES: Final = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object",
    type(None): "null",
}  # fmt: skip
"""JSON's names of types."""

Errors = Sequence[jsonschema_rs.ValidationError]


class PayloadFault(NamedTuple):
    """One fault of a payload, without its values. `place`: the path to it, joined by `/`."""

    place: str
    keyword: str
    text: str


def problems(validator: jsonschema_rs.Draft202012Validator, payload: Any) -> Iterator[PayloadFault]:
    """The faults of a payload, one by one."""
    for error in validator.iter_errors(payload):
        yield from _faults(error)


def _faults(error: jsonschema_rs.ValidationError) -> Iterator[PayloadFault]:
    keyword = str(error.schema_path[-1]) if error.schema_path else "schema"
    place = "/".join(str(part) for part in error.instance_path)
    if keyword not in ("anyOf", "oneOf") or not (branches := getattr(error.kind, "context", None)):
        yield PayloadFault(place, keyword, _told(keyword, error))
        return
    here = len(error.instance_path)
    other_types = [_other_types(errors, here) for errors in branches]
    fitting = [errors for errors, types in zip(branches, other_types, strict=True) if not types]
    if not fitting:
        types = dict.fromkeys(name for types in other_types for name in types)
        yield PayloadFault(place, "type", _wrong_type(error.instance, [*types]))
        return
    for name in _of(fitting[0], "required", here):
        if all(name.message in [one.message for one in _of(errors, "required", here)] for errors in fitting):
            yield PayloadFault(place, "required", _told("required", name))
            return
    meant = [errors for errors in fitting if not _of(errors, "const", here + 1)]
    if deeper := [errors for errors in meant if all(len(one.instance_path) > here for one in errors)]:
        meant = deeper  # the value itself is right, and a part of it is not
    if len(meant) == 1:
        for inner in meant[0]:
            yield from _faults(inner)
    elif (
        not meant
        and len(names := {tuple(_of(errors, "const", here + 1)[0].instance_path) for errors in fitting}) == 1
    ):
        # Each alternative has a name, as operations have, and this is none of them.
        known = json.dumps([_of(errors, "const", here + 1)[0].kind.value for errors in fitting])
        yield PayloadFault(
            "/".join(map(str, names.pop())), "enum", f"does not fit the schema's enum: {known}"
        )
    else:
        yield PayloadFault(place, keyword, _told(keyword, error))


def _other_types(errors: Errors, depth: int) -> list[str]:
    """The types that an alternative has instead of the value's at this depth; none if it has the value's."""
    for error in _of(errors, "type", depth):
        return list(error.kind.value)
    for error in _of(errors, "enum", depth):
        types = [*dict.fromkeys(_TYPES[type(choice)] for choice in error.kind.value)]
        return types if _TYPES[type(error.instance)] not in types else []
    return []


def _of(errors: Errors, keyword: str, depth: int) -> list[jsonschema_rs.ValidationError]:
    """Those of a keyword about the value at this depth."""
    return [one for one in errors if one.kind.name == keyword and len(one.instance_path) == depth]


def _told(keyword: str, error: jsonschema_rs.ValidationError) -> str:
    """A fault in words: what the schema wants, but no names and values of the payload."""
    wanted = error.kind.value
    if keyword == "format":  # our own assertion; the message has the reason and shows no value
        return f"can't be fetched: {error.message}"
    if keyword == "type":
        return _wrong_type(error.instance, wanted)
    if keyword == "additionalProperties" and isinstance(wanted, list):
        count = len(wanted)  # their names may be somebody's secrets
        return f"has {count} member{'s' if count > 1 else ''} that the schema does not know here"
    if keyword == "required":
        return f"lacks the member {wanted}"
    if keyword in TOLD_KEYWORDS and len(said := json.dumps(wanted, ensure_ascii=False)) <= MAX_LIMIT_TOLD:
        return f"does not fit the schema's {keyword}: {said}"
    return f"does not fit the schema's {keyword}"


def _wrong_type(value: Any, wanted: Sequence[str]) -> str:
    types = " or ".join(sorted(wanted, key=lambda name: name == "null"))
    return f"does not fit the schema's type: {types} expected, {_TYPES[type(value)]} found"
