"""One HTTP connection pool to a coordinator: retries, and answers turned into values or exceptions.

Every request of the protocol may be repeated (a submit carries an idempotency key). So each one is: after a
lost connection, and after an answer that means "try again later".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import ValidationError

from coordinator.client.errors import BadAnswer, CoordinatorError, RateLimited, TryAgain, Unreachable, refusal
from coordinator.client.models import AnswerModel
from coordinator.telemetry.propagation import current_traceparent
from coordinator.validation import first_invalid_field
from coordinator.wire.backoff import Backoff
from coordinator.wire.http.proxies import BadProxy, new_client, proxy_of
from coordinator.wire.http.signing import signing
from coordinator.wire.limits import MAX_BODY_BYTES

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 30.0
TRIES: Final = 4
BACKOFF: Final = Backoff(first_seconds=0.4, longest_seconds=10.0)
LONGEST_RETRY_AFTER_S: Final = 65.0
"""For a longer `Retry-After` the caller must wait itself. Rate limits count by the minute."""
_AT_LEAST: Final = b"X-At-Least"
_TRACEPARENT: Final = b"traceparent"

Typed = TypeVar("Typed", bound=AnswerModel)
Body = Callable[[], AsyncIterator[bytes]]
"""Starts the request body from its beginning, once for each try."""


def typed(kind: type[Typed], document: dict[str, Any]) -> Typed:
    """The typed form of an answer. Raises BadAnswer."""
    try:
        return kind.of(document)
    except ValidationError as error:
        where, why, _ = first_invalid_field(error)
        raise BadAnswer(f"invalid {where} in the coordinator's answer: {why}") from None


class HttpPool:
    """Requests to one coordinator with one API key.

    Every read asks for at least the position of the last write noticed here, so that it shows that write.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        hmac_secret: str | None = None,
        timeout: float = ANSWER_TIMEOUT_S,
        tries: int = TRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`timeout` is in seconds of silence; `transport` replaces the network (an ASGI app in tests)."""
        self.url = url.rstrip("/")
        self.tries = tries
        self._timeout = timeout
        self._seen = 0
        address = _address(self.url)
        try:
            self._proxy = None if transport else proxy_of(self.url)
        except BadProxy as error:
            raise CoordinatorError("INVALID_ARGUMENT", str(error)) from None
        self._http = new_client(
            self.url,
            base_url=address,
            headers={b"X-Api-Key": header_text("the API key", api_key)} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
            transport=transport,
            auth=signing(hmac_secret),
        )

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: Body | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[bytes, bytes] | None = None,
        wait_seconds: float = 0.0,
        also: Collection[int] = (),
    ) -> httpx.Response:
        """The answer to a request, read to its end. Raises RequestRefused, Unreachable.

        `wait_seconds`: the server may hold the request for so long; added to the usual timeout.
        `also`: status codes that are answers, and no refusals.
        """

        async def once() -> httpx.Response:
            request = self._request(method, path, json, body, params, headers, wait_seconds)
            response = await self._http.send(request)
            return response if response.status_code in also else _checked(response)

        response = await self._repeating(once)
        self._notice(response)
        return response

    async def ask_json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """The JSON object that answers a request. Raises RequestRefused, Unreachable, BadAnswer."""
        response = await self.ask(method, path, **options)
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise BadAnswer(f"{self.url} did not answer with a JSON object; is it a coordinator's URL?")
        position = document.get("position")
        if isinstance(position, int):
            self.notice(position)
        return document

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to be read. Raises RequestRefused, Unreachable."""

        async def once() -> httpx.Response:
            request = self._request("GET", path, None, None, params, None, 0.0)
            response = await self._http.send(request, stream=True)
            if response.is_success:
                return response
            try:
                await response.aread()
            finally:
                await response.aclose()
            return _checked(response)

        response = await self._repeating(once)
        try:
            yield response
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        finally:
            await response.aclose()

    def _request(
        self,
        method: str,
        path: str,
        json: Any,
        body: Body | None,
        params: Mapping[str, Any] | None,
        headers: Mapping[bytes, bytes] | None,
        wait_seconds: float,
    ) -> httpx.Request:
        sent = dict(headers or {})
        if method not in ("GET", "HEAD"):
            if (trace := current_traceparent()) is not None:
                sent.setdefault(_TRACEPARENT, trace.encode())
        elif self._seen:
            sent[_AT_LEAST] = b"%d" % self._seen  # so that a read shows our earlier writes
        wait = httpx.Timeout(self._timeout + wait_seconds, connect=CONNECT_TIMEOUT_S, pool=None)
        known = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            request = self._http.build_request(
                method,
                path,
                json=json,
                content=body() if body else None,
                params=known or None,
                headers=sent,
                timeout=wait,
            )
        except (TypeError, ValueError) as error:
            raise CoordinatorError("INVALID_ARGUMENT", f"the request is not JSON: {error}") from None
        if json is not None and len(request.content) > MAX_BODY_BYTES:
            # The server refuses it too, but hangs up while we still send, so its answer may be lost.
            detail = f"the request has {len(request.content)} bytes; the limit is {MAX_BODY_BYTES}"
            raise refusal(413, {"code": "TOO_LARGE", "detail": detail})
        return request

    async def _repeating(self, once: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        tried = 0
        while True:
            try:
                return await once()
            except httpx.RequestError as error:
                if tried + 1 >= self.tries:
                    raise self._unreachable(error) from error
                asked = 0.0
            except (TryAgain, RateLimited) as error:
                asked = error.retry_after or 0.0
                if tried + 1 >= self.tries or asked > LONGEST_RETRY_AFTER_S:
                    raise
            # The requested time, and some jitter, so that clients do not return at the same moment.
            await asyncio.sleep(asked + BACKOFF.delay(tried))
            tried += 1

    def notice(self, position: int) -> None:
        """Let later reads be at least as fresh as this position of the log."""
        self._seen = max(self._seen, position)

    def _notice(self, response: httpx.Response) -> None:
        position = response.headers.get("X-Position", "")
        if position.isascii() and position.isdigit() and response.request.method not in ("GET", "HEAD"):
            self.notice(int(position))

    def _unreachable(self, error: httpx.RequestError) -> Unreachable:
        way = f" through the proxy of {self._proxy.variable}" if self._proxy else ""
        if isinstance(error, httpx.TimeoutException):
            return Unreachable(f"{self.url} did not answer in time{way}")
        return Unreachable(f"{self.url}{way}: {str(error) or type(error).__name__}")


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise CoordinatorError("INVALID_ARGUMENT", f"invalid URL {url!r}: {error}") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise CoordinatorError("INVALID_ARGUMENT", f"invalid URL {url!r}: use one like http://host:port")
    if not 0 < (address.port or 1) < 65_536:
        raise CoordinatorError("INVALID_ARGUMENT", f"invalid port in {url!r}: use 1 to 65535")
    return address


def header_text(label: str, text: str) -> bytes:
    """A header's value: UTF-8. Raises CoordinatorError, which never quotes the text."""
    if not text.isprintable():
        raise CoordinatorError("INVALID_ARGUMENT", f"{label} has a character that no header can carry")
    return text.encode()


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    retry_after = response.headers.get("Retry-After", "")
    raise refusal(response.status_code, problem if isinstance(problem, dict) else {}, retry_after)
