"""A patch of pamqp, the AMQP codec below aio-pika: it can't read all properties that RabbitMQ lets through.

A `type` that is not UTF-8, a timestamp in the year 300,000, a header table nested 20,000 deep or a delivery
mode of 7: any sender of commands may send these. Reading one raises in the connection's reader (or before
our handler is called). The connection drops, the broker delivers the message again, and so on; each time it
counts a delivery for every other message in flight. So unreadable properties are read as harmless values:
the signature is then invalid, and the message becomes an ordinary dead letter.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any

from pamqp import decode
from pamqp.commands import Basic

_LENGTH = struct.Struct(">I")
_DELIVERY_MODES = (None, 1, 2)

_strict_table = decode.field_table
_strict_timestamp = decode.timestamp
_strict_properties = Basic.Properties.unmarshal


def _short_text(value: bytes) -> tuple[int, str]:
    length = value[0]
    return length + 1, value[1 : length + 1].decode(errors="replace")


def _timestamp(value: bytes) -> tuple[int, datetime | None]:
    try:
        return _strict_timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(value: bytes) -> tuple[int, dict[str, Any]]:
    try:
        return _strict_table(value)
    except (ValueError, OverflowError, OSError, IndexError, RecursionError):
        return int(_LENGTH.unpack_from(value)[0]) + 4, {}


def _properties(self: Basic.Properties, flags: int, data: bytes) -> None:
    _strict_properties(self, flags, data)
    if self.delivery_mode not in _DELIVERY_MODES:
        self.delivery_mode = None


def read_tolerantly() -> None:
    """Patch pamqp for this process. May be called any number of times."""
    decode.METHODS.update({"shortstr": _short_text, "timestamp": _timestamp, "table": _table})
    setattr(Basic.Properties, "unmarshal", _properties)  # noqa: B010 - mypy has no way to allow this
