"""From a message's bytes to a command.

Both edges use these functions, so that a command means the same over AMQP and HTTP, and is refused alike.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Command, Principal
from coordinator.domain.registry import COMMANDS
from coordinator.validation import describe_invalid
from coordinator.wire.limits import MAX_BODY_BYTES

MAX_DEPTH = 32
MAX_INTEGER_DIGITS = 18  # what a 64-bit column keeps

# The shape of a body's bytes, with which numbers that may be too large are found several times faster than in
# the body itself: digits (and the point) are 0, e is e, what may stand before a number is a colon, signs are
# gone. Digits inside a string do not follow a colon, so digests are not taken for numbers.
_SHAPE = bytearray(b"x" * 256)
for _bytes, _shape in ((b"0123456789.", b"0"), (b"eE", b"e"), (b":[, \t\r\n", b":")):
    for _byte in _bytes:
        _SHAPE[_byte] = _shape[0]
_RISKY_NUMBER = re.compile(rb":0(?:0{%d}|0*e000)" % MAX_INTEGER_DIGITS)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89aAbB])")


def parse_json(body: bytes, max_bytes: int = MAX_BODY_BYTES) -> Any:
    """The JSON in `body`, without anything that no store can keep. Raises Refusal.

    Refused are: over `max_bytes`, not JSON, NaN and infinity, NUL and lone surrogates, deeper than MAX_DEPTH,
    integers beyond 64 bits.
    """
    if len(body) > max_bytes:
        raise Refusal(Code.TOO_LARGE, f"the body has {len(body)} bytes; the limit is {max_bytes}")
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(Code.INVALID_PAYLOAD, f"the body is not JSON: {error}") from None
    # These are rare and cheap to rule out over the raw bytes; only then is the value walked.
    if _UNSTORABLE.search(body) or _RISKY_NUMBER.search(b":" + body.translate(_SHAPE, b"+-")):
        _check_storable(value, MAX_DEPTH)
    elif body.count(b"[") + body.count(b"{") > MAX_DEPTH and _may_be_deep(body):
        _check_depth(value, MAX_DEPTH)
    return value


def _may_be_deep(body: bytes) -> bool:
    """Whether the brackets alone allow for too many levels: most large bodies are arrays, wide and not deep.

    Each pass takes away the innermost pairs, which is far quicker than a walk through the value. Brackets
    within strings can only make it say yes.
    """
    brackets = body.translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    return bool(brackets)


def _check_depth(value: Any, depth: int) -> None:
    """As `_check_storable`, for its depth alone."""
    if depth == 0:
        raise Refusal(Code.INVALID_PAYLOAD, f"the body is nested deeper than {MAX_DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            _check_depth(item, depth - 1)


def _check_storable(value: Any, depth: int) -> None:
    """`depth`: how many levels of arrays and objects `value` may still have."""
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
        raise Refusal(Code.INVALID_PAYLOAD, "the body has half of a surrogate pair") from None


def parse_command(topic: str, value: Any) -> Command:
    """The command of this type with these fields. Raises Refusal, whose detail shows no values."""
    command_type = COMMANDS.get(topic)
    if command_type is None:
        raise Refusal(Code.UNKNOWN_COMMAND, "no such command type; see the protocol page for what there is")
    try:
        # The values come from JSON, so JSON's rules apply (a list for a tuple, a string for a UUID).
        return command_type.model_validate(value)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


def check_sender(command: Command, principal: Principal) -> None:
    """Whether this principal's role may send this command at all. Raises Refusal."""
    if principal.role not in command.senders:
        raise Refusal(Code.FORBIDDEN, f"a {principal.role.value} key can't send {command.topic}")
