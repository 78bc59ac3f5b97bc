"""Limits of size and time on what a request sends before its body: its line and its headers, the head.

Our endpoints bound bodies, and nothing reaches them before a head is whole. uvicorn leaves heads to its
parser, which keeps whatever comes: a stranger could fill our memory, or hold connections for ever. The
trailer, which may follow a body in chunks, is bounded in the same way.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem

MAX_HEAD_BYTES: Final = 64 * 1024
HEAD_SECONDS: Final = 20.0
"""For a whole head to arrive: of a first request since the connection, of others since their first byte."""


class _HeadersTooLarge(Exception):
    """Ends the parser's work in the middle; it goes no further than `data_received`."""


class LimitedHeaders(HttpToolsProtocol):
    """uvicorn's protocol, with heads that are too large answered 431, and heads that are too slow 408."""

    head_seconds = HEAD_SECONDS
    _in_head = False  # from its first byte until it is whole
    _in_trailer = False  # or in front of a chunk, which can't be told apart
    _fresh = False  # head or trailer began within the bytes that are being parsed
    _arrived_bytes = 0  # since then, in the reads after that one
    _told_bytes = 0  # of what the parser has told of
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._fresh = False
        super().data_received(data)
        if not (self._in_head or self._in_trailer) or self.transport.is_closing():
            return
        # The parser tells of whole headers only: what comes before it does is counted, too.
        if not self._fresh:
            self._arrived_bytes += len(data)
            if self._arrived_bytes > MAX_HEAD_BYTES:
                self._refuse_size()
                return
        if self._in_head and self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._fresh = True
        self._arrived_bytes = self._told_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._in_trailer = self._fresh = True
        self._arrived_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._in_trailer = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_trailer = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._told_bytes > MAX_HEAD_BYTES:
            self._refuse_size()
        else:
            self._refuse(Problem(Code.INVALID_PAYLOAD, "this is no HTTP request", status=400))

    def _count(self, size: int) -> None:
        self._told_bytes += size
        if self._told_bytes > MAX_HEAD_BYTES:
            raise _HeadersTooLarge

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._in_head:
            self.transport.close()  # without a word: none was said to us
        else:
            self._refuse(Problem(Code.INVALID_PAYLOAD, "the request did not arrive in time", status=408))

    def _refuse_size(self) -> None:
        detail = f"the request's line and headers are larger than {MAX_HEAD_BYTES} bytes"
        self._refuse(Problem(Code.TOO_LARGE, detail, status=431))

    def _refuse(self, problem: Problem) -> None:
        """Answer where no application is reached, and close: what follows can't be told apart any more."""
        response = problem.response()
        reason = HTTPStatus(response.status_code).phrase
        lines = [f"HTTP/1.1 {response.status_code} {reason}".encode()]
        headers: list[tuple[bytes, bytes]] = [*response.raw_headers, (b"connection", b"close")]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body))
        self.transport.close()
