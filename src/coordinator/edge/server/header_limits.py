"""Limits of size and time on a request's headers, its first line included.

Endpoints bound bodies, but run only once the headers are complete. uvicorn leaves headers to its parser,
which keeps all of them: a stranger could fill our memory, or hold connections for ever. The trailer, which
may follow a chunked body, is bounded in the same way.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem
from coordinator.edge.http.response_headers import HEADERS_OF_EVERY_ANSWER

MAX_HEADER_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 200
"""Each of them costs some 200 bytes of objects, however short it is."""
HEADER_SECONDS: Final = 20.0
"""For all headers to arrive: of a first request since the connection, of others since their first byte."""


class _HeadersTooLarge(Exception):
    """Interrupts the parser; never leaves `data_received`."""


class LimitedHeaders(HttpToolsProtocol):
    """uvicorn's protocol, which answers 431 to headers that are too large, and 408 to slow ones."""

    header_seconds = HEADER_SECONDS
    _in_headers = False  # from the first byte until they are complete
    _in_trailer = False  # or before a chunk: the two can't be told apart
    _fresh = False  # headers or trailer began within the bytes that are being parsed
    _arrived_bytes = 0  # since then, in the reads after that one
    _parsed_bytes = 0  # of the headers that the parser has reported
    _parsed_headers = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._fresh = False
        self._feed(data)
        if not (self._in_headers or self._in_trailer) or self.transport.is_closing():
            return
        # The parser reports complete headers only, so the bytes of incomplete ones are counted, too.
        if not self._fresh:
            self._arrived_bytes += len(data)
            if self._arrived_bytes > MAX_HEADER_BYTES:
                self._refuse(_too_large())
                return
        if self._in_headers and self._timer is None:
            self._start_timer()

    def _feed(self, data: bytes) -> None:
        """As uvicorn does, but without a line in the log for each invalid request of a stranger."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError:
            self.send_400_response("")

    def _upgrade(self) -> None:
        if self._should_upgrade():
            self.handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = self._fresh = True
        self._arrived_bytes = self._parsed_bytes = self._parsed_headers = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        # As uvicorn does; its own method, and one that counts, would be two calls for each header.
        self._parsed_bytes += len(name) + len(value) + len(b": \r\n")
        self._parsed_headers += 1
        if self._parsed_bytes > MAX_HEADER_BYTES or self._parsed_headers > MAX_HEADERS:
            raise _HeadersTooLarge
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_headers = False
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
        self._refuse(self._invalid())

    def _invalid(self) -> Problem:
        """The reason why the parser stopped."""
        if self._parsed_bytes > MAX_HEADER_BYTES or self._parsed_headers > MAX_HEADERS:
            return _too_large()
        return Problem(Code.INVALID_PAYLOAD, "not an HTTP request", status=400)

    def _count(self, size: int) -> None:
        self._parsed_bytes += size
        if self._parsed_bytes > MAX_HEADER_BYTES:
            raise _HeadersTooLarge

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._in_headers:
            self.transport.close()  # without an answer: no request has begun
        else:
            self._refuse(Problem(Code.INVALID_PAYLOAD, "the headers did not arrive in time", status=408))

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application, and close: the next request's beginning can't be found."""
        self._write_refusal(problem)
        self.transport.close()

    def _write_refusal(self, problem: Problem) -> None:
        response = problem.response()
        for name, value in HEADERS_OF_EVERY_ANSWER.items():
            response.headers.setdefault(name, value)
        reason = HTTPStatus(response.status_code).phrase
        lines = [f"HTTP/1.1 {response.status_code} {reason}".encode()]
        headers: list[tuple[bytes, bytes]] = [*response.raw_headers, (b"connection", b"close")]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body))


def _too_large() -> Problem:
    detail = (
        f"the request's line and headers are over {MAX_HEADER_BYTES} bytes, or over {MAX_HEADERS} headers"
    )
    return Problem(Code.TOO_LARGE, detail, status=431)
