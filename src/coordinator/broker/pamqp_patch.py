"""RabbitMQ lets properties through that the AMQP codec below aio-pika (pamqp) refuses to read.

A `type` that is not UTF-8, a timestamp in the year 300,000, a header table nested 20,000 deep or a delivery
mode of 7: anyone who may publish a command may send these. Reading one raises in the connection's reader (or
before our handler is called), the connection drops, the broker delivers the message again, and so on, each
time counting a delivery for every innocent message in flight. So what cannot be read is read as something
harmless instead; the signature then does not fit, and the message becomes an ordinary dead letter.
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
    """Make this process read such properties. May be called any number of times."""
    decode.METHODS.update({"shortstr": _short_text, "timestamp": _timestamp, "table": _table})
    setattr(Basic.Properties, "unmarshal", _properties)  # noqa: B010 - mypy has no way to allow this
