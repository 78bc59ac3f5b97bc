"""Ids, salts and trace contexts, from random bytes that are drawn from the kernel in bulk."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from uuid import UUID

SALT_BYTES = 16
_DRAWN_BYTES = 4096  # a call of the kernel costs more than the bytes


class Ids:
    """The source of new ids. `now`: Unix milliseconds. Used on the event loop only."""

    def __init__(self, now: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._now = now
        self._bytes = b""
        self._used = 0

    def salt(self) -> bytes:
        return self._draw(SALT_BYTES)

    def uuid7(self) -> UUID:
        """RFC 9562, section 5.7: 48 bits of Unix milliseconds, then random bits. Sorts by age.

        Python 3.14 has `uuid.uuid7`; use it once that is the oldest supported version.
        """
        raw = bytearray(struct.pack(">Q", self._now())[2:] + self._draw(10))
        raw[6] = 0x70 | raw[6] & 0x0F
        raw[8] = 0x80 | raw[8] & 0x3F
        return UUID(bytes=bytes(raw))

    def traceparent(self) -> str:
        """A new, unsampled trace context: it only connects the events of a trace."""
        random = self._draw(24).hex()
        return f"00-{random[:32]}-{random[32:]}-00"

    def request_id(self) -> bytes:
        """A new id of a request, as text of its header."""
        return self._draw(16).hex().encode()

    def _draw(self, count: int) -> bytes:
        if self._used + count > len(self._bytes):
            self._bytes, self._used = os.urandom(_DRAWN_BYTES), 0
        self._used += count
        return self._bytes[self._used - count : self._used]
