"""Fetches strangers' URLs safely: never from the miner's own network.

Connections go to checked addresses only (`wire.http.checked_network`). Redirects are followed here, each
checked like the first URL. Nothing is decompressed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import httpcore
import httpx

from coordinator.miner.executors.errors import INPUT_TOO_LARGE, ExecutorError
from coordinator.wire.http.checked_network import CheckedNetwork, Resolve
from coordinator.wire.http.checked_network import resolve as system_resolve
from coordinator.wire.http.urls import UnsafeUrl, Url, check_url

DOWNLOAD_FAILED: Final = "DOWNLOAD_FAILED"
UNSAFE_URL: Final = "UNSAFE_URL"
MAX_REDIRECTS: Final = 5
CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0
"""For the next bytes to arrive."""
FETCH_SECONDS: Final = 1800.0
"""For a whole file: a very slow server must not hold a slot for the job's whole time limit."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TRANSIENT: Final = frozenset({408, 425, 429})
_CHUNK_BYTES: Final = 1 << 20


class FetchFailed(Exception):
    """The server or the network failed; another try may succeed."""


class WebFiles:
    """Fetches URLs into files.

    `allowed`: hosts that need not be public (see `wire.http.urls.parse_allowed`).
    """

    def __init__(
        self,
        allowed: Collection[str] = (),
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        read_seconds: float = READ_SECONDS,
        fetch_seconds: float = FETCH_SECONDS,
    ) -> None:
        self._allowed = allowed
        self._resolve = resolve or system_resolve
        self._tls = tls
        self._timeouts = {"connect": CONNECT_SECONDS, "read": read_seconds, "write": read_seconds}
        self._fetch_seconds = fetch_seconds

    async def fetch(self, text: str, to: Path, max_bytes: int) -> None:
        """One try at a URL, into a file. Raises ExecutorError, FetchFailed; may leave a partial file."""
        try:
            async with asyncio.timeout(self._fetch_seconds):
                await self._fetch(text, to, max_bytes)
        except UnsafeUrl as error:
            raise ExecutorError(UNSAFE_URL, f"the input's URL: {error}") from None
        except TimeoutError:
            raise ExecutorError(
                DOWNLOAD_FAILED, f"the input did not arrive within {self._fetch_seconds:.0f} seconds"
            ) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise FetchFailed(type(error).__name__) from None

    async def _fetch(self, text: str, to: Path, max_bytes: int) -> None:
        url = check_url(text, self._allowed)
        for _ in range(MAX_REDIRECTS + 1):
            async with self._get(url) as response:
                if response.status not in _REDIRECTS:
                    _check(response, max_bytes)
                    await _save(response.aiter_stream(), to, max_bytes)
                    return
                try:
                    text = urljoin(text, _header(response, b"location"))
                except ValueError:
                    raise UnsafeUrl("it redirects to an invalid URL") from None
            target = check_url(text, self._allowed)
            if url.scheme == "https" and target.scheme != "https":
                raise UnsafeUrl("it redirects from https to http")
            url = target
        raise ExecutorError(DOWNLOAD_FAILED, f"the input's URL redirects more than {MAX_REDIRECTS} times")

    @asynccontextmanager
    async def _get(self, url: Url) -> AsyncIterator[httpcore.Response]:
        # A pool per request: strangers' URLs share no connection and no cookie.
        if url.scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        network = CheckedNetwork(self._resolve, public_only=not url.allowed)
        async with httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=network) as pool:
            request = pool.stream(
                "GET",
                httpcore.URL(
                    scheme=url.scheme.encode(),
                    host=url.host.encode(),
                    port=url.port,
                    target=url.target.encode(),
                ),
                headers=[
                    (b"Host", url.authority.encode()),
                    (b"User-Agent", b"coordinator-miner"),
                    (b"Accept", b"*/*"),
                    (b"Accept-Encoding", b"identity"),
                ],
                extensions={"timeout": self._timeouts},
            )
            async with request as response:
                yield response


def _check(response: httpcore.Response, max_bytes: int) -> None:
    """Raise FetchFailed for a passing failure, ExecutorError for a lasting one."""
    status = response.status
    if status >= 500 or status in _TRANSIENT:
        raise FetchFailed(f"HTTP status {status}")
    if status != 200:
        raise ExecutorError(DOWNLOAD_FAILED, f"the input's server answered {status}")
    if _header(response, b"content-encoding").lower() not in ("", "identity"):
        raise ExecutorError(DOWNLOAD_FAILED, "the input's server compressed it without being asked")
    length = _header(response, b"content-length")
    if length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes)


async def _save(pieces: AsyncIterator[bytes], to: Path, max_bytes: int) -> None:
    size, waiting = 0, bytearray()
    with await asyncio.to_thread(to.open, "wb") as file:
        async for piece in pieces:
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            waiting += piece
            if len(waiting) >= _CHUNK_BYTES:
                await asyncio.to_thread(file.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(file.write, bytes(waiting))


def _header(response: httpcore.Response, name: bytes) -> str:
    return next(
        (value.decode("latin-1").strip() for key, value in response.headers if key.lower() == name), ""
    )


def _too_large(max_bytes: int) -> ExecutorError:
    return ExecutorError(INPUT_TOO_LARGE, f"a file is larger than {max_bytes} bytes")
