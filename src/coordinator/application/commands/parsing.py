"""From a message's bytes to a command.

HTTP and AMQP use these functions, so that both accept and refuse the same commands.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from coordinator.crypto.json_size import has_more_values, outside_strings
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Command, Principal
from coordinator.domain.registry import COMMANDS
from coordinator.validation import describe_invalid
from coordinator.wire.limits import MAX_BODY_BYTES, MAX_CONTAINERS, MAX_VALUES

MAX_DEPTH = 32
MAX_INTEGER_DIGITS = 18  # always within 64 bits
FEW_BRACKETS = 16_384  # more of them, within strings, would take milliseconds

# The shape of a body's bytes. Finding numbers that may be too large in it is several times faster than in the
# body itself: digits and the point become 0, e and E become e, bytes that may precede a number become a
# colon, signs vanish. Digits inside a string don't follow a colon, so digests don't look like numbers.
_SHAPE = bytearray(b"x" * 256)
for _bytes, _shape in ((b"0123456789.", b"0"), (b"eE", b"e"), (b":[, \t\r\n", b":")):
    for _byte in _bytes:
        _SHAPE[_byte] = _shape[0]
_RISKY_NUMBER = re.compile(rb":0(?:0{%d}|0*e000)" % MAX_INTEGER_DIGITS)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89aAbB])")


def parse_json(body: bytes, max_bytes: int = MAX_BODY_BYTES) -> Any:
    """The JSON in `body`; every store can keep it. Raises Refusal.

    Refused are: more than `max_bytes`, more than MAX_VALUES values or MAX_CONTAINERS arrays and objects,
    invalid JSON, NaN and infinity, NUL and lone surrogates, nesting deeper than MAX_DEPTH, integers beyond
    64 bits.
    """
    if len(body) > max_bytes:
        raise Refusal(Code.TOO_LARGE, f"the body has {len(body)} bytes; the limit is {max_bytes}")
    # Before it is parsed: every value costs memory and time, in the parser and in each later step. Strings
    # are looked at only where the plain counts, which can only be too high, leave a doubt.
    brackets = body.count(b"[") + body.count(b"{")
    doubtful = brackets > MAX_CONTAINERS or brackets + body.count(b",") > MAX_VALUES
    if doubtful and has_more_values(body, MAX_VALUES, MAX_CONTAINERS):
        raise Refusal(
            Code.TOO_LARGE,
            f"the body has more than {MAX_VALUES} values, or more than {MAX_CONTAINERS} arrays and objects; "
            "send large data as a file",
        )
    try:
        # Uncached: a cache of strings saves nothing on short bodies, and doubles the time of many names.
        value = from_json(body, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise Refusal(Code.INVALID_PAYLOAD, f"the body is not JSON: {error}") from None
    # Faults are rare and cheap to rule out in the raw bytes; only suspicious values are walked.
    if _UNSTORABLE.search(body) or _RISKY_NUMBER.search(b":" + body.translate(_SHAPE, b"+-")):
        _check_storable(value, MAX_DEPTH)
    elif brackets > MAX_DEPTH and _may_be_deep(body, brackets):
        _check_depth(value, MAX_DEPTH)
    return value


def _may_be_deep(body: bytes, brackets: int) -> bool:
    """Whether the brackets allow for too many levels; most large bodies are arrays, wide and not deep.

    Brackets within strings can only cause a false yes, so strings are removed only then.
    """
    if brackets <= FEW_BRACKETS and _is_shallow(body):
        return False
    return not _is_shallow(outside_strings(body))


def _is_shallow(text: bytes) -> bool:
    """Each pass removes the innermost pairs, which is far faster than a walk through the value."""
    brackets = text.translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return True
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    return not brackets


def _check_depth(value: Any, depth: int) -> None:
    """Like `_check_storable`, for the depth alone."""
    if depth == 0:
        raise Refusal(Code.INVALID_PAYLOAD, f"the body is nested deeper than {MAX_DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            _check_depth(item, depth - 1)


def _check_storable(value: Any, depth: int) -> None:
    """`depth`: the number of levels of arrays and objects that `value` may still have."""
    if depth == 0 and isinstance(value, dict | list):
        raise Refusal(Code.INVALID_PAYLOAD, f"the body is nested deeper than {MAX_DEPTH} levels")
    match value:
        case str():
            _check_text(value)
        case dict():
            for key, item in value.items():
                _check_text(key)
                _check_storable(item, depth - 1)
        case list():
            kinds = set(map(type, value))
            if kinds == {float} and all(map(isfinite, value)):
                return  # most long numbers are floats in long arrays
            for item in value:
                _check_storable(item, depth - 1)
        case bool():
            pass
        case int():
            if abs(value) >= 2**63:
                raise Refusal(Code.INVALID_PAYLOAD, "the body has an integer beyond 64 bits")
        case float():
            if value - value != 0:  # infinity, from a number like 1e999
                raise Refusal(Code.INVALID_PAYLOAD, "the body has a number that is not finite")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Refusal(Code.INVALID_PAYLOAD, "the body has a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(Code.INVALID_PAYLOAD, "the body has a lone surrogate; send valid Unicode") from None


def parse_command(topic: str, value: Any) -> Command:
    """The command of this type with these fields. Raises Refusal, whose detail shows no values."""
    command_type = COMMANDS.get(topic)
    if command_type is None:
        raise Refusal(Code.UNKNOWN_COMMAND, "no such command type; the protocol page lists all types")
    try:
        # The values are parsed JSON, so a list stands for a tuple, and a string for a UUID.
        return command_type.model_validate(value)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


def check_sender(command: Command, principal: Principal) -> None:
    """Raise Refusal unless this principal's role may send this command at all."""
    if principal.role not in command.senders:
        raise Refusal(Code.FORBIDDEN, f"a {principal.role.value} key can't send {command.topic}")
