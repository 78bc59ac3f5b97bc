"""A WebSocket whose peer can't make us hold more than a read of bytes, a message and a buffer of answers.

uvicorn's protocol parses all bytes of a read at once, answers control pings without a look at flow control,
and keeps any number of fragments. Here bytes are parsed in small pieces, and only while the application has
taken all earlier messages and the peer takes our answers; nothing is read meanwhile. Control frames and
fragments are counted. Until its application trusts the peer, messages may have MAX_STRANGER_BYTES only.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Scope
from uvicorn._types import ASGIReceiveEvent
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from coordinator.edge.server.connections import connections_of
from coordinator.edge.server.websocket_denials import RefusedWebSockets

PIECE_BYTES: Final = 4096
"""Parsed at a time: some 700 of the smallest frames."""
MAX_STRANGER_BYTES: Final = 8192
MAX_CONTROL_FRAMES: Final = 100
"""Pings and unasked pongs within CONTROL_SECONDS."""
CONTROL_SECONDS: Final = 10.0
MAX_FRAGMENTS: Final = 1024
TRUST: Final = "coordinator.trust"


class BoundedWebSocket(RefusedWebSockets):
    """One WebSocket; see the module."""

    def __init__(self, config: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(config, *arguments, **named)
        self._all = connections_of(config)
        self._input = memoryview(b"")
        """Bytes that were read, and not parsed yet."""
        self.reading_paused = False
        self._control_frames = 0
        self._control_since = 0.0
        self._trusted_bytes = self.conn.max_message_size
        self.conn.max_message_size = MAX_STRANGER_BYTES

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.release(self, under_way=True)
        super().connection_lost(exc)
        self._input = memoryview(b"")
        self.frames = []
        # Cut the cycles of references, so that the memory comes back now and not with a late collection.
        self.conn.parser.close()
        if (scope := getattr(self, "scope", None)) is not None:
            scope["extensions"].pop(TRUST, None)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if (scope := getattr(self, "scope", None)) is not None:
            scope["extensions"][TRUST] = self._trust

    # --- flow ----------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            return
        self._input = memoryview(bytes(self._input) + data if self._input else data)
        self._advance()

    async def receive(self) -> ASGIReceiveEvent:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._advance()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] in ("websocket.accept", "websocket.close"):
            self._advance()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_reading()

    def resume_writing(self) -> None:
        self._all.took_data(self)
        super().resume_writing()
        self._advance()

    def _advance(self) -> None:
        """Parse on, as far as that is allowed now."""
        while self._input and self._may_parse():
            piece, self._input = self._input[:PIECE_BYTES], self._input[PIECE_BYTES:]
            super().data_received(bytes(piece))
        self._set_reading()

    def _may_parse(self) -> bool:
        if self.transport.is_closing() or not self.writable.is_set():
            return False
        # After our close frame messages are dropped, and only the peer's own close frame counts.
        return self.close_sent or (self.handshake_complete and not self.read_paused)

    def _set_reading(self) -> None:
        if self.transport.is_closing():
            self._input = memoryview(b"")
            return
        # Also where the base class thinks otherwise: both calls may be repeated.
        self.reading_paused = bool(self._input) or not self._may_parse()
        if self.reading_paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # --- frames --------------------------------------------------------------------------------------------
    def handle_ping(self) -> None:
        if self._count_control_frame():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if self._count_control_frame():
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self._end(f"a message has more than {MAX_FRAGMENTS} fragments")
        elif not self._ended():
            super().handle_cont(event)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # the peer does not take our data either

    def _count_control_frame(self) -> bool:
        """Whether the frame may be handled."""
        now = self.loop.time()
        if now - self._control_since > CONTROL_SECONDS:
            self._control_since, self._control_frames = now, 0
        self._control_frames += 1
        if self._control_frames > MAX_CONTROL_FRAMES:
            self._end("too many control frames")
        return not self._ended()

    def _end(self, reason: str) -> None:
        """Close it without waiting for the peer's close frame."""
        if self._ended():
            return
        self.stop_keepalive()
        self._input = memoryview(b"")
        self.frames = []
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": CloseCode.POLICY_VIOLATION, "reason": reason}
        )
        self.conn.fail(CloseCode.POLICY_VIOLATION, reason)
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def _ended(self) -> bool:
        return self.transport.is_closing()

    def _trust(self) -> None:
        self.conn.max_message_size = self._trusted_bytes


def trust(scope: Scope) -> None:
    """The peer of this WebSocket has proved its key: it may send messages of full size."""
    if (of_connection := scope.get("extensions", {}).get(TRUST)) is not None:
        of_connection()
