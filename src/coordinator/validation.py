"""Pydantic's errors as text for people: the field and the reason, without any value from the input.

Inputs hold secrets and clients' data, and these texts go into logs and answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

MAX_FIELD_NAME = 64  # characters shown of a field's name
MAX_TEXT = 1000
MAX_LISTED = 500
"""Of more invalid fields than this, none is named: pydantic makes all of them, or none."""

_QUOTING = {
    "uuid_parsing": "Input should be a valid UUID",
    "union_tag_invalid": "Input should have one of the known types",
}
"""Pydantic's messages of these kinds quote from the input; these replace them."""


class InvalidField(NamedTuple):
    """One invalid field. `where` is a path with dots, empty for the whole document."""

    where: str
    why: str
    kind: str
    """Pydantic's name of the rule, such as `missing`."""

    def text(self, root: str) -> str:
        """`where: why`, with `root` as the name of the whole document."""
        return f"{self.where or root}: {self.why}"


def invalid_fields(error: ValidationError) -> list[InvalidField]:
    """Every invalid field."""
    return [
        _invalid_field(p) for p in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def first_invalid_field(error: ValidationError) -> InvalidField:
    """The first invalid field; there is always one."""
    if error.error_count() > MAX_LISTED:
        return InvalidField("", f"{error.error_count()} fields are invalid", "many")
    return invalid_fields(error)[0]


def describe_invalid(error: ValidationError, root: str = "body", most: int = 5) -> str:
    """The first `most` invalid fields in one line, and the number of others."""
    if error.error_count() > MAX_LISTED:
        return first_invalid_field(error).text(root)
    return describe_invalid_fields(
        error.errors(include_input=False, include_url=False, include_context=False), root, most
    )


def describe_invalid_fields(problems: Iterable[Mapping[str, Any]], root: str = "body", most: int = 5) -> str:
    """Like `describe_invalid`, for a list in the form of `ValidationError.errors()`."""
    found = [_invalid_field(problem) for problem in problems]
    lines = [field.text(root) for field in found[:most]]
    if len(found) > most:
        lines.append(f"and {len(found) - most} more")
    return "; ".join(lines)[:MAX_TEXT]


def _invalid_field(problem: Mapping[str, Any]) -> InvalidField:
    why = _QUOTING.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    return InvalidField(".".join(map(_part, problem["loc"])), why, problem["type"])


def _part(part: int | str) -> str:
    # The sender chose the names of unknown fields: show them only if they fit in the line.
    text = str(part)
    return text if text.isprintable() and len(text) <= MAX_FIELD_NAME else "?"
