"""One connection between an edge process and the core: frames in both directions, with bounded buffers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import structlog

from coordinator.edge.relay.frames import BadFrame, Frame, FrameReader, Kind, encode, encode_json

MOST_WAITING_BYTES: Final = 256 * 1024
"""Of frames that nobody has taken; then nothing more is read."""

log = structlog.get_logger("edge")


class Link(asyncio.Protocol):
    """One connection. One task at a time may take frames. Used on the event loop."""

    def __init__(
        self,
        on_made: Callable[[Link], None] = lambda link: None,
        on_lost: Callable[[Link], None] = lambda link: None,
    ) -> None:
        self._on_made = on_made
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._on_change: Callable[[], None] | None = None
        self._held = b""
        self.transport: asyncio.Transport
        self.lost = False

    # --- asyncio.Protocol ----------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._on_made(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except BadFrame as error:
            log.warning("the local connection is cut", reason=str(error))
            self.close()
            return
        for frame in frames:
            self._frames.append(frame)
            self._bytes += len(frame.meta) + len(frame.data)
        if frames and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if frames and self._on_change is not None:
            self._on_change()
        if self._bytes > MOST_WAITING_BYTES:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        for waiter in (self._waiter, self._writable):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        if self._on_change is not None:
            self._on_change()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # --- frames --------------------------------------------------------------------------------------------
    async def take(self) -> Frame | None:
        """The next frame; None once the connection is lost and all frames before that are taken."""
        while (frame := self.at_hand()) is None:
            if self.lost:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return frame

    def at_hand(self) -> Frame | None:
        """The next frame, if it has arrived."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        before, self._bytes = self._bytes, self._bytes - len(frame.meta) - len(frame.data)
        if before > MOST_WAITING_BYTES >= self._bytes and not self.lost:
            self.transport.resume_reading()
        return frame

    def has(self, *kinds: Kind) -> bool:
        """Whether a frame of these kinds has arrived and is not taken."""
        return any(frame.kind in kinds for frame in self._frames)

    def watch(self, on_change: Callable[[], None] | None) -> None:
        """Call back, in place of an earlier callback, when frames arrive and when the connection is lost."""
        self._on_change = on_change

    def put_back(self, frame: Frame) -> None:
        """Undo `take`."""
        self._frames.appendleft(frame)
        self._bytes += len(frame.meta) + len(frame.data)

    def hold(self, kind: Kind, meta: Any = None) -> None:
        """Write this frame together with the next one; at the latest with the next turn of the event loop."""
        if not self._held:
            asyncio.get_running_loop().call_soon(self.flush)
        self._held += encode(kind, meta)

    def flush(self) -> None:
        """Write the held frames."""
        if self._held:
            held, self._held = self._held, b""
            self._write(held)

    def write(self, kind: Kind, meta: Any = None, data: bytes = b"") -> None:
        """Write a frame, after the held ones. Does nothing on a lost connection."""
        held, self._held = self._held, b""
        self._write(held + encode(kind, meta, data))

    def write_json(self, kind: Kind, text: bytes) -> None:
        """Like `write`, with JSON that is text already."""
        self._write(encode_json(kind, text))

    async def drain(self) -> None:
        """Wait while the other side does not take what was written."""
        while self._writable is not None and not self.lost:
            await asyncio.shield(self._writable)

    def close(self) -> None:
        """End the connection. May be called twice."""
        if not self.lost:
            self.transport.abort()

    def _write(self, data: bytes) -> None:
        if not self.lost and not self.transport.is_closing():
            self.transport.write(data)
