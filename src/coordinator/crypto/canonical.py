"""The byte forms for signatures and digests.

`canonical` is the form for signatures, that of AITBC receipt 1.0. Null members are dropped, keys are
sorted, separators are `,` and `:`, and everything outside ASCII is escaped. It takes only values that
every JSON library reads the same way: objects with printable ASCII keys, arrays without nulls, strings,
booleans, and integers up to ±(2^53 - 1). Where all strings are ASCII below U+007F the same bytes are also
canonical by RFC 8785; with other characters they are not, because AITBC escapes and RFC 8785 does not.

`canonical_json` is the form for digests of payloads and results: RFC 8785 itself, so that a miner or an
auditor in any language has a library for it. Nulls stay, and floats are allowed. One extension:
integers beyond ±(2^53 - 1), for which RFC 8785 has no form, keep all their digits.

`canonical_lenient` only serves to check receipts made elsewhere: AITBC's own form, floats included.
"""

import hashlib
import json
from collections.abc import Iterable
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any, Final

import orjson

MAX_SIGNED_DEPTH: Final = 32
MAX_JSON_DEPTH: Final = 64
MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that every IEEE 754 reader tells from its neighbours (RFC 7493)."""

_ASTRAL: Final = "\U00010000"
_MANY: Final = 16
"""Members from which one look at all their types costs less than one look at each."""
_SIMPLE: Final = {str, int, bool, type(None)}
_EXACT: Final = 1e15
"""Whole floats below it have no more digits than their integers."""
_ascii_text = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, check_circular=False
).encode
_unicode_text = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
).encode


class CanonicalError(ValueError):
    """The value has no canonical form; the message names the part and the remedy."""


def canonical(value: Any) -> bytes:
    """The bytes that a signature covers; see the module's first form.

    Raises CanonicalError for floats, nulls inside arrays, NUL characters, lone surrogates, integers
    beyond ±(2^53 - 1), keys that are not printable ASCII, and nesting deeper than 32.
    """
    if _check_signed(value, 1):
        value = _without_null_members(value)
    return canonical_of_checked(value)


def canonical_of_checked(value: Any) -> bytes:
    """`canonical` of a value that a strict model has checked.

    The model guarantees printable ASCII keys, no nulls, no floats, integers up to ±(2^53 - 1) and few levels,
    so that the walk over the members is left out. Raises CanonicalError for NUL characters and lone
    surrogates.
    """
    quick = _sorted_json(value)
    # `json` also escapes DEL and everything outside ASCII; orjson does not. The code below checks escapes.
    if quick is not None and quick.isascii() and b"\x7f" not in quick and b"\\u" not in quick:
        return quick
    text = _ascii_text(value)
    # Only text outside printable ASCII has \u escapes, so most values skip the walk over strings.
    if "\\u" in text:
        _check_strings(value)
    return text.encode("ascii")


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of any JSON value, for digests; see the module's second form.

    Raises CanonicalError for NaN, infinities, NUL characters, lone surrogates, keys that are not
    strings, anything that is not JSON, and nesting deeper than 64.
    """
    plain = _is_plain(value, 1)
    quick = _sorted_json(value) if plain else None
    if quick is not None and b"\\u0000" not in quick:
        return quick
    text = _unicode_text(value) if plain else _rfc8785_text(value)
    if "\\u0000" in text:
        _check_strings(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CanonicalError("a string holds a lone surrogate; send well-formed Unicode") from None


def canonical_lenient(value: Any) -> bytes:
    """AITBC's own form of any JSON value: no nulls in objects and arrays, floats as Python writes them.

    For checking signatures made elsewhere, never for making one. Equals `canonical` wherever that is
    defined. Raises CanonicalError for values that AITBC cannot have signed: NaN, not JSON, too deep.
    """
    try:
        text = _ascii_text(value)
        # Most receipts hold no null, and a copy costs more than a search for the word.
        if "null" in text:
            text = _ascii_text(_without_nulls(value))
    except (TypeError, ValueError) as error:
        raise CanonicalError(f"not JSON: {error}") from None
    except RecursionError:
        raise CanonicalError("nested too deep") from None
    return text.encode("ascii")


def salted_digest(salt: bytes, value: Any) -> str:
    """Hex SHA-256 of `salt || canonical_json(value)`.

    The salt (16 random bytes or more, kept with the payload) protects a short payload from guesses against
    the digest. Once salt and payload are erased, the digest says nothing.
    """
    return hashlib.sha256(salt + canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces. Blocks: call it in a thread."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sorted_json(value: Any) -> bytes | None:
    """The sorted, compact JSON of a checked value, ten times as fast as `json`.

    None for values that orjson can't write: integers beyond 64 bits, and lone surrogates.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return None


def _check_signed(value: Any, depth: int) -> bool:
    """Refuse a value that cannot be signed. True if a null member has to be dropped."""
    if isinstance(value, dict):
        if depth > MAX_SIGNED_DEPTH:
            raise CanonicalError(f"nested deeper than {MAX_SIGNED_DEPTH}")
        _check_keys(value, ascii_only=True)
        nulls = False
        for key, member in value.items():
            kind = type(member)
            if kind is str or (kind is int and -MAX_SAFE_INTEGER <= member <= MAX_SAFE_INTEGER):
                continue
            if member is None:
                nulls = True
            else:
                try:
                    nulls |= _check_signed(member, depth + 1)
                except CanonicalError as error:
                    raise CanonicalError(f"{key}: {error}") from None
        return nulls
    if isinstance(value, list | tuple):
        if depth > MAX_SIGNED_DEPTH:
            raise CanonicalError(f"nested deeper than {MAX_SIGNED_DEPTH}")
        if None in value:
            # AITBC drops these nulls and RFC 8785 keeps them; a refusal keeps both forms equal.
            raise CanonicalError("an array holds null; leave the element out")
        nulls = False
        for element in value:
            if type(element) is not str:
                nulls |= _check_signed(element, depth + 1)
        return nulls
    if isinstance(value, str | bool):
        return False
    if isinstance(value, int):
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise CanonicalError("an integer is beyond ±(2^53 - 1); write it as a decimal string")
        return False
    if isinstance(value, float):
        raise CanonicalError("floats are not signed; write a decimal string or an integer of a smaller unit")
    raise CanonicalError(f"{type(value).__name__} is not JSON")


def _is_plain(value: Any, depth: int) -> bool:
    """Check a JSON value; True if the C encoder's text for it is RFC 8785."""
    if isinstance(value, float):
        if not isfinite(value):
            raise CanonicalError("NaN and infinity are not JSON; send a string or null")
        return _is_plain_float(value)
    if isinstance(value, str | int) or value is None:
        return True
    if depth > MAX_JSON_DEPTH:
        raise CanonicalError(f"nested deeper than {MAX_JSON_DEPTH}")
    if isinstance(value, dict):
        plain = _check_keys(value, ascii_only=False) < _ASTRAL
        members: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple):
        plain, members = True, value
    else:
        raise CanonicalError(f"{type(value).__name__} is not JSON")
    if len(value) > _MANY and set(map(type, members)) <= _SIMPLE:  # most large arrays are lists of scalars
        return plain
    for member in members:
        kind = type(member)
        if kind is str or kind is int or member is None:
            continue
        plain &= _is_plain(member, depth + 1)
    return plain


def _is_plain_float(value: float) -> bool:
    """Whether Python and ECMAScript write it alike; they differ on 1.0, 1e-05, 1e16 and so on."""
    return 1e-4 <= abs(value) < 1e16 and not value.is_integer()


def _check_keys(value: dict[Any, Any], *, ascii_only: bool) -> str:
    """Refuse keys that are not strings. Returns the largest character of any key (or "")."""
    try:
        names = "".join(value)
    except TypeError:
        raise CanonicalError("object keys must be strings") from None
    if names.isascii() and (names.isprintable() or not ascii_only):
        return "\x7f"
    if ascii_only:
        # Sorting by code point, by UTF-16 unit and by byte agree on ASCII only.
        raise CanonicalError("object keys of a signed value must be printable ASCII")
    return max(names)


def _check_strings(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise CanonicalError("a string holds a NUL character; remove it")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise CanonicalError("a string holds a lone surrogate; send well-formed Unicode") from None
    elif isinstance(value, dict):
        for key, member in value.items():
            _check_strings(key)
            _check_strings(member)
    elif isinstance(value, list | tuple):
        for element in value:
            _check_strings(element)


def _without_null_members(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null_members(member) for key, member in value.items() if member is not None}
    if isinstance(value, list | tuple):
        return [_without_null_members(element) for element in value]
    return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(element) for element in value if element is not None]
    return value


def _rfc8785_text(value: Any) -> str:
    """The same as the C encoder, with ECMAScript numbers and keys in UTF-16 order; about ten times slower."""
    if isinstance(value, float):
        return repr(float(value)) if _is_plain_float(value) else _ecmascript_number(value)
    if isinstance(value, dict):
        try:
            keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        except UnicodeEncodeError:
            raise CanonicalError("a key holds a lone surrogate; send well-formed Unicode") from None
        return "{" + ",".join(f"{_unicode_text(key)}:{_rfc8785_text(value[key])}" for key in keys) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_rfc8785_text(element) for element in value]) + "]"
    return _unicode_text(value)


def _ecmascript_number(value: float) -> str:
    """Number::toString of ECMAScript (ECMA-262, 6.1.6.1.20), the number format of RFC 8785."""
    if abs(value) < _EXACT and value.is_integer():
        return str(int(value))
    if abs(value) < 1e-6:
        return repr(value).replace("e-0", "e-")
    # repr() already finds the shortest digits that read back; only the layout differs.
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    text, count = "".join(map(str, digits)), len(digits)
    point = count + exponent
    if count <= point <= 21:
        text += "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{text}"
    else:
        fraction = f".{text[1:]}" if count > 1 else ""
        text = f"{text[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text
