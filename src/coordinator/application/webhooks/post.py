"""One try: a POST to a receiver, within bounds of time and bytes, to a checked address, without redirects."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import httpcore
import httpx

from coordinator.crypto.webhooks import headers_as_sent
from coordinator.wire.http.checked_network import CheckedNetwork, Resolve
from coordinator.wire.http.checked_network import resolve as system_resolve
from coordinator.wire.http.urls import UnsafeUrl, check_receiver_url

MAX_ANSWER_BYTES: Final = 16_384
"""Nobody looks at the content: it is read so that a receiver may finish its answer, and no further."""
_USER_AGENT: Final = b"coordinator-webhooks"


class Answered(NamedTuple):
    """What became of a try."""

    status: int | None
    """The HTTP status; None without an answer."""
    error: str
    """Why there is no answer; empty if there is one. It holds nothing that a receiver sent."""
    ms: int
    retry_after: float | None = None
    """Seconds that the receiver asks to wait."""

    @property
    def succeeded(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def says(self) -> str:
        """In a few words, for people."""
        return self.error or f"HTTP {self.status}"


Post = Callable[[str, Mapping[str, str], bytes], Awaitable[Answered]]
"""Sends a body with these headers to a URL; never raises, but for a cancellation."""


class HttpPost:
    """Implements `Post`."""

    def __init__(
        self,
        timeout: float,
        *,
        allow_private: bool = False,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`timeout`: seconds for a whole try, from the name's resolution to the answer's end."""
        self._timeout = timeout
        self._allow_private = allow_private
        self._resolve = resolve or system_resolve
        self._tls = tls

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        begun = time.monotonic()

        def answered(status: int | None, error: str = "", retry_after: float | None = None) -> Answered:
            return Answered(status, error, round((time.monotonic() - begun) * 1000), retry_after)

        try:
            async with asyncio.timeout(self._timeout):
                status, retry_after = await self._post(url, headers, body)
        except UnsafeUrl as error:
            return answered(None, f"refused: {error}")
        except (TimeoutError, httpcore.TimeoutException):
            return answered(None, f"no answer within {self._timeout:g} s")
        except httpcore.ConnectError as error:
            reason = (
                "the certificate is not valid" if "CERTIFICATE" in str(error).upper() else "can't connect"
            )
            return answered(None, reason)
        except httpcore.NetworkError:
            return answered(None, "the connection broke")
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol):
            return answered(None, "not an HTTP answer")
        return answered(status, retry_after=retry_after)

    async def _post(self, text: str, headers: Mapping[str, str], body: bytes) -> tuple[int, float | None]:
        # Checked again: the settings, or the rules, may have changed since the URL was given.
        url = check_receiver_url(text, allow_private=self._allow_private)
        if url.scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        network = CheckedNetwork(self._resolve, public_only=not url.allowed)
        # A pool per request: receivers share no connection.
        async with httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=network) as pool:
            request = pool.stream(
                "POST",
                httpcore.URL(
                    scheme=url.scheme.encode(),
                    host=url.host.encode(),
                    port=url.port,
                    target=url.target.encode(),
                ),
                headers=[
                    (b"Host", url.authority.encode()),
                    (b"User-Agent", _USER_AGENT),
                    (b"Accept", b"*/*"),
                    (b"Accept-Encoding", b"identity"),
                    (b"Content-Type", b"application/json"),
                    (b"Content-Length", str(len(body)).encode()),
                    *headers_as_sent(headers),
                ],
                content=body,
                extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)},
            )
            async with request as response:
                size = 0
                async for piece in response.aiter_stream():
                    size += len(piece)
                    if size > MAX_ANSWER_BYTES:
                        break
                return response.status, _retry_after(response)


def _retry_after(response: httpcore.Response) -> float | None:
    """The seconds of `Retry-After`; a date is not read."""
    if response.status not in (429, 503):
        return None
    for name, value in response.headers:
        if name.lower() == b"retry-after" and value.isdigit() and len(value) <= 9:
            return float(value)
    return None
