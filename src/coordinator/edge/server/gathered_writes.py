"""One write for the head of an answer and its body: one call of the system, and one wake-up of the peer."""

from __future__ import annotations

import asyncio


class GatheredWrites:
    """A transport as an answer uses it. What it holds goes with the next write, or when the loop has turned.

    So the head of a stream whose body comes later is not held back.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.writelines([held, data])
        elif data:
            self._held = data
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        self.flush()
        self._transport.close()
