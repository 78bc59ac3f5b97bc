"""A receiver of webhooks: a small HTTP server that keeps what it gets, and answers as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self


class Got(NamedTuple):
    """One request."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        """The body, as JSON."""
        read: dict[str, Any] = json.loads(self.body)
        return read


def answer(status: str = "200 OK", **headers: str) -> bytes:
    """An answer without a body."""
    named = {"Content-Length": "0", **{k.replace("_", "-"): v for k, v in headers.items()}}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode()


class Receiver:
    """`answers(got)`: the bytes of an answer. `play(writer)`: anything else, in place of an answer."""

    def __init__(
        self,
        answers: Callable[[Got], bytes] = lambda _: answer(),
        *,
        play: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self._answers = answers
        self._play = play
        self._tls = tls
        self.port = port
        self.got: list[Got] = []

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            named = (line.partition(": ") for line in head[1:] if line)
            headers = {name.lower(): value for name, _, value in named}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            got = Got(method, target, headers, body)
            self.got.append(got)
            if self._play is None:
                writer.write(self._answers(got))
                await writer.drain()
            else:
                await self._play(writer)
        writer.close()
