"""A small client of HTTP/1.1, to cost little: a bench measures the coordinator, and shares its processors.

It knows as much of HTTP as the coordinator's answers have: a status and a length.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, Self, cast

END_OF_HEAD: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length:"


class Refused(Exception):
    """An answer that is no success."""


class HttpClient:
    """Requests with one key, each on a free connection; there are as many as requests at once."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._headers = f"Host: 127.0.0.1:{port}\r\nX-Api-Key: {key}\r\n".encode()
        self._free: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def get(self, path: str) -> bytes:
        """The body of the answer.

        Raises:
            Refused: The status is not of a success.
        """
        return await self._send(f"GET {path} HTTP/1.1\r\n".encode() + self._headers + b"\r\n")

    async def post(self, path: str, body: Mapping[str, Any], header: bytes = b"") -> bytes:
        """As `get`; the body is sent as JSON. `header`: a line with its end."""
        content = json.dumps(body, separators=(",", ":")).encode()
        about = b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (header, len(content))
        return await self._send(f"POST {path} HTTP/1.1\r\n".encode() + self._headers + about + content)

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _send(self, request: bytes) -> bytes:
        connection = await self._connection()
        status, body = await connection.exchange(request)
        if connection.open:
            self._free.append(connection)
        if not 200 <= status < 300:
            raise Refused(f"{request.split(b' HTTP', 1)[0].decode()}: {status} {body[:500].decode()}")
        return body

    async def _connection(self) -> _Connection:
        """A free one that the coordinator has not closed meanwhile, or a new one."""
        while self._free:
            connection = self._free.pop()
            if connection.open:
                return connection
            self._all.discard(connection)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        self._all.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.open = True

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer. If it is cancelled, the connection is closed."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol -----------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's have another base class

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(END_OF_HEAD)
        if end < 0 or self._answer is None:
            return
        head = self._received[: end + 2].lower()
        at = head.find(LENGTH)
        begin = end + len(END_OF_HEAD)
        length = 0 if at < 0 else int(head[at + len(LENGTH) : head.index(b"\r\n", at)])
        if len(self._received) < begin + length:
            return
        body, self._received = self._received[begin : begin + length], b""
        if b"\r\nconnection: close" in head:
            self.open = False
        if not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the coordinator closed the connection"))
