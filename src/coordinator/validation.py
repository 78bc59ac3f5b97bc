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

MAX_FAULTS = 2000
"""Of more faults than this, none is named: pydantic makes all of them, or none."""
_KINDS = {
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "none_required": "null",
}
"""The kinds of values, by pydantic's rule that another kind breaks."""
_FOUND = {
    str: "a string",
    list: "a list",
    dict: "an object",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_SIZES = ("too_long", "too_short")
"""Pydantic's rules for the lengths of lists, which it counts before it looks at the items."""


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


def meant_field(error: ValidationError, document: Any) -> InvalidField:
    """The fault that the sender can mend, in a document with choices between several forms of a value.

    Of a choice, pydantic lists the faults of every form, and names the form in the place of the fault. This
    takes the form that the value comes closest to: the fault deepest in the document. `where` has only
    members of the document, and a missing member. If no form is of the value's own kind, all are named.
    """
    if error.error_count() > MAX_FAULTS:
        return InvalidField("", f"{error.error_count()} faults", "many")
    faults = [_placed(problem, document) for problem in error.errors(include_input=False, include_url=False)]
    first = faults[0]
    if not first.chosen or first.kind not in (*_KINDS, "literal_error"):
        return first.field()
    among = [fault for fault in faults if fault.place[: len(first.place)] == first.place]
    inside = [f for f in among if len(f.place) > len(first.place) or f.kind not in _KINDS]
    sizes = [fault for fault in inside if fault.kind in _SIZES]
    if sizes and all(fault.kind in (*_KINDS, *_SIZES) for fault in inside):
        return sizes[0].field()  # a form that got as far as counting is nearer than one of other items
    if inside:
        # The deepest; of these, rather one that does not want another kind of value, and the form of which
        # most items of a list are.
        return max(inside, key=lambda f: (len(f.place), f.kind not in _KINDS, f.number)).field()
    kinds = dict.fromkeys(_KINDS[fault.kind] for fault in among)
    return first._replace(why=f"Input should be {' or '.join(kinds)}").field()


def describe_meant(error: ValidationError, document: Any, root: str = "body") -> str:
    """Like `describe_invalid`; with a choice between forms on the way, the fault that was meant alone."""
    if error.error_count() > MAX_FAULTS:
        return meant_field(error, document).text(root)
    problems = error.errors(include_input=False, include_url=False)
    if any(_placed(problem, document).chosen for problem in problems):
        return meant_field(error, document).text(root)
    return describe_invalid_fields([_with_found_kind(problem, document) for problem in problems], root)


def _with_found_kind(problem: Mapping[str, Any], document: Any) -> Mapping[str, Any]:
    """The problem; one with a value of another kind says that kind, too."""
    if problem["type"] not in _KINDS:
        return problem
    for part in problem["loc"]:
        try:
            document = document[part]
        except (IndexError, KeyError, TypeError):  # a part that is no member
            return problem
    return {**problem, "msg": f"{problem['msg']}, not {_FOUND.get(type(document), 'this')}"}


class _Fault(NamedTuple):
    place: tuple[int | str, ...]
    """Members of the document, and perhaps a missing one."""
    chosen: bool
    """Whether there was a choice on the way."""
    why: str
    kind: str

    @property
    def number(self) -> int:
        """The item of a list at fault."""
        last = self.place[-1] if self.place else -1
        return last if isinstance(last, int) else -1

    def field(self) -> InvalidField:
        return InvalidField(".".join(map(_part, self.place)), self.why, self.kind)


def _placed(problem: Mapping[str, Any], document: Any) -> _Fault:
    place: list[int | str] = []
    chosen = False
    parts, kind = problem["loc"], problem["type"]
    for number, part in enumerate(parts):
        if (isinstance(document, Mapping) and part in document) or (
            isinstance(document, list) and isinstance(part, int) and part < len(document)
        ):
            document = document[part]
        elif kind != "missing" or number < len(parts) - 1:
            chosen = True  # not in the document: the name of a form
            continue
        place.append(part)
    why = _invalid_field(problem).why
    if kind in _KINDS:
        why = f"Input should be {_KINDS[kind]}"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        # The member that tells the forms apart is at fault. The names of the forms are ours.
        place.append(problem["ctx"]["discriminator"].strip("'"))
        tags = problem["ctx"].get("expected_tags")
        why = f"Input should be {tags}" if tags else "Field required"
        kind = "literal_error" if tags else "missing"
    return _Fault(tuple(place), chosen, why, kind)


def _invalid_field(problem: Mapping[str, Any]) -> InvalidField:
    why = _QUOTING.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    return InvalidField(".".join(map(_part, problem["loc"])), why, problem["type"])


def _part(part: int | str) -> str:
    # The sender chose the names of unknown fields: show them only if they fit in the line.
    text = str(part)
    return text if text.isprintable() and len(text) <= MAX_FIELD_NAME else "?"
