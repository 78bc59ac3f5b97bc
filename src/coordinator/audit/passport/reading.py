"""A passport from its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coordinator.crypto.log.passport import FORMAT, MAX_PASSPORT_BYTES, Passport
from coordinator.validation import first_invalid_field


class BadPassport(ValueError):
    """Not a passport; the text says what is wrong with it."""


def read_passport(content: bytes) -> Passport:
    """The passport in these bytes; nothing is verified yet. Raises BadPassport."""
    try:
        document = json.loads(content.decode(), object_pairs_hook=_members)
    except BadPassport:
        raise
    except (ValueError, RecursionError):
        raise BadPassport("not JSON in UTF-8") from None
    if not isinstance(document, dict) or "format" not in document:
        raise BadPassport("no passport: it has no member `format`")
    if document["format"] != FORMAT:
        raise BadPassport(f"format: expected {FORMAT!r}; another version of the coordinator may read it")
    try:
        return Passport.model_validate(document)
    except ValidationError as error:
        raise BadPassport(first_invalid_field(error).text("passport")) from None


def load_passport(path: Path) -> Passport:
    """The passport in a file. Raises BadPassport, OSError."""
    with path.open("rb") as file:
        content = file.read(MAX_PASSPORT_BYTES + 1)
    if len(content) > MAX_PASSPORT_BYTES:
        raise BadPassport(f"a passport has at most {MAX_PASSPORT_BYTES} bytes")
    return read_passport(content)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # Two readers could take different ones for the true one.
        raise BadPassport("an object has a member twice")
    return found
