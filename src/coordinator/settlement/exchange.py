"""One request to a chain's node and its JSON answer: bounded in time and bytes, without redirects.

A node is not trusted further than it has to be: an answer may have any type, be huge, slow or no JSON at all.
The URL may hold a key of the node's provider, and the answer anybody's text: no error shows either.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import httpx
from pydantic_core import from_json

from coordinator.application.ports import SinkUnavailable
from coordinator.wire.http.proxies import new_client

TIMEOUT_SECONDS: Final = 10.0
"""For a whole exchange."""
MAX_ANSWER_BYTES: Final = 1 << 20


class Reply(NamedTuple):
    """The answer of a node."""

    status: int
    content: Any
    """Of any type that JSON has."""


class NodeExchange:
    """Exchanges with one node."""

    def __init__(self, url: str, name: str, timeout: float = TIMEOUT_SECONDS) -> None:
        """`name`: of the setting with the URL, for errors."""
        self._base = url.rstrip("/")
        self._name = name
        self._timeout = timeout
        self._client: httpx.AsyncClient | None = None

    async def post(self, path: str, content: bytes) -> Reply:
        """Raises SinkUnavailable."""
        return await self._exchange("POST", path, content)

    async def get(self, path: str) -> Reply:
        """Raises SinkUnavailable."""
        return await self._exchange("GET", path, None)

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _exchange(self, method: str, path: str, content: bytes | None) -> Reply:
        if self._client is None:
            self._client = new_client(self._base, timeout=self._timeout, follow_redirects=False)
        try:
            async with asyncio.timeout(self._timeout):
                return await self._read(self._client, method, path, content)
        except (TimeoutError, httpx.TimeoutException):
            raise SinkUnavailable(f"{self._name}: no answer within {self._timeout:g} s") from None
        except httpx.ConnectError:
            raise SinkUnavailable(f"{self._name}: can't connect; is the node running?") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SinkUnavailable(f"{self._name}: no HTTP answer ({type(error).__name__})") from None

    async def _read(self, client: httpx.AsyncClient, method: str, path: str, content: bytes | None) -> Reply:
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        body = bytearray()
        url = self._base + path
        async with client.stream(method, url, content=content, headers=headers) as response:
            # A few bytes may unpack to gigabytes: nothing compressed was asked for.
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise SinkUnavailable(f"{self._name}: the answer is compressed, which was not asked for")
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise SinkUnavailable(f"{self._name}: the answer has more than {MAX_ANSWER_BYTES} bytes")
        try:
            # It bounds the depth by itself; the standard library's reader by the interpreter's limit only.
            return Reply(response.status_code, from_json(bytes(body), allow_inf_nan=False))
        except ValueError:
            raise SinkUnavailable(
                f"{self._name}: HTTP {response.status_code}, and the answer is not JSON"
            ) from None
