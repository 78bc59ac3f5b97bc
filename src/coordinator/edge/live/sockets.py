"""WebSockets of any endpoint: authentication, receiving and sending.

The key is in the header `X-Api-Key`. Browsers can't set headers: they send it as a subprotocol beside
`coordinator.v1` (`key.<base64url of name:secret>`) or in the first message. It is never in the URL, because
proxies log URLs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from coordinator.application.commands.parsing import parse_json
from coordinator.application.keys.keyring import Grant
from coordinator.application.live.revocation import Revocation
from coordinator.crypto.keys import EncodingError, decode_base64url
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, Role
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.credentials import (
    HEADER,
    MAX_KEY_BYTES,
    grant_for,
    grants_alone,
    grants_of,
    key_in,
    unknown_key,
)
from coordinator.edge.http.problems import Problem, problem_of
from coordinator.edge.middleware.rate_limits import TOO_MANY_FAILURES, too_many
from coordinator.edge.server.websocket_connection import trust

PROTOCOL: Final = "coordinator.v1"
KEY_PROTOCOL: Final = "key."
HELLO_SECONDS: Final = 10.0
SEND_SECONDS: Final = 30.0
"""How long one message may wait for a reader that does not read; then the socket is closed."""
CLOSE_SECONDS: Final = 2.0
MAX_ID: Final = 100
_ENDS: Final = (WebSocketDisconnect, RuntimeError, TimeoutError)
"""Exceptions of sending on a closing or stuck socket."""

CLOSE_UNAUTHORIZED: Final = 4401
"""4000 and the HTTP status: 4403 and 4429 likewise."""
CLOSE_TIMEOUT: Final = 4408
CLOSE_UNAVAILABLE: Final = 4503
CLOSE_STOPPING: Final = 1012

log = structlog.get_logger("coordinator.access")


class SocketClosed(Exception):
    """The socket is closed, or must be closed with this code."""

    def __init__(self, code: int = 1000, reason: str = "") -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Socket:
    """One WebSocket, as its endpoint sees it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._counted = ExitStack()
        """Holds its place among the open streams of its key."""

    async def open(self, context: EdgeContext, *roles: Role) -> Grant:
        """Accept it; its key's grant. Raises SocketClosed; an invalid header is answered with a problem."""
        websocket = self._websocket
        try:
            _check_origin(websocket.headers, context.settings.allow_origins)
            grant = await _grant_of_handshake(websocket, context, roles)
            if grant is not None:
                self._count(context, grant)
        except Problem as problem:
            await websocket.send_denial_response(problem.response())
            raise SocketClosed from None
        offered = websocket.scope.get("subprotocols", ())
        await websocket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
        if grant is None:
            grant = await self._hello(context, roles)
        trust(websocket.scope)
        log.info("websocket", path=websocket.url.path, principal=grant.principal.name)
        return grant

    async def receive(self) -> tuple[dict[str, Any], str | None]:
        """The next message, an object, and its `id`. Raises SocketClosed; Refusal for an invalid message."""
        try:
            received = await self._websocket.receive()
        except RuntimeError:
            raise SocketClosed from None
        if received["type"] == "websocket.disconnect":
            raise SocketClosed(received.get("code") or 1005)
        text = received.get("text")
        if text is None:
            raise Refusal(Code.INVALID_PAYLOAD, "messages are text, not binary")
        try:
            value = parse_json(text.encode())
        except UnicodeEncodeError:
            raise Refusal(Code.INVALID_PAYLOAD, "the message has half of a surrogate pair") from None
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise Refusal(Code.INVALID_PAYLOAD, "a message is a JSON object with a type")
        message_id = value.pop("id", None)
        if message_id is not None and not (isinstance(message_id, str) and len(message_id) <= MAX_ID):
            raise Refusal(Code.INVALID_PAYLOAD, f"id: should be a string of up to {MAX_ID} characters")
        return value, message_id

    async def send(self, text: str) -> None:
        """Send one message. Raises SocketClosed, also if the reader does not read for too long."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._websocket.send_text(text)
        except TimeoutError:
            raise SocketClosed(CLOSE_TIMEOUT, "you do not read; reconnect and resume") from None
        except _ENDS:
            raise SocketClosed from None

    def release(self) -> None:
        """Give back its place among the open streams of its key. May be called twice."""
        self._counted.close()

    async def close(self, code: int, reason: str = "") -> None:
        """Close it, if it is open. Waits only CLOSE_SECONDS for a reader that does not read."""
        if self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._websocket.close(code, reason)
        except _ENDS:
            pass

    async def _hello(self, context: EdgeContext, roles: Collection[Role]) -> Grant:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                message, _ = await self.receive()
        except TimeoutError:
            raise SocketClosed(CLOSE_TIMEOUT, "no hello came in time") from None
        except Refusal as refusal:
            raise SocketClosed(CLOSE_UNAUTHORIZED, refusal.detail[:100]) from None
        key = message.get("key")
        if message["type"] != "hello" or not isinstance(key, str):
            raise SocketClosed(
                CLOSE_UNAUTHORIZED, f'send a header {HEADER}, or {{"type": "hello", "key": …}} first'
            )
        try:
            grant = await _by_key(self._websocket, key, context, roles)
            self._count(context, grant)
        except Problem as problem:
            raise SocketClosed(4000 + problem.status, problem.detail[:100]) from None
        return grant

    def _count(self, context: EdgeContext, grant: Grant) -> None:
        try:
            self._counted.enter_context(context.open_connections.stream(grant.principal))
        except Refusal as refusal:
            raise problem_of(refusal) from None


def check_over(revocation: Revocation) -> None:
    """Raises SocketClosed if the server stops, or the key is no longer valid."""
    if revocation.revoked:
        raise SocketClosed(CLOSE_UNAUTHORIZED, "this API key is no longer valid")
    if revocation.stopping:
        raise SocketClosed(CLOSE_STOPPING, "the coordinator stops; reconnect and resume")


async def spend(context: EdgeContext, principal: Principal) -> None:
    """Count a message as a request. Raises Refusal (RATE_LIMITED)."""
    spent = await context.rates.spend(principal.role.value, principal.name) if context.rates else None
    if spent is not None and not spent.allowed:
        raise Refusal(Code.RATE_LIMITED, f"too many messages; wait for {max(1, int(spent.reset))} s")


async def _grant_of_handshake(
    websocket: WebSocket, context: EdgeContext, roles: Collection[Role]
) -> Grant | None:
    """The grant of the key in header or subprotocol; None without a key. Raises Problem."""
    if key_in(websocket.headers) is not None:
        return grant_for(grants_of(websocket), *roles)
    offered = [p for p in websocket.scope.get("subprotocols", ()) if p.startswith(KEY_PROTOCOL)]
    if not offered:
        return None
    try:
        key = decode_base64url(offered[0].removeprefix(KEY_PROTOCOL)).decode()
    except (EncodingError, UnicodeDecodeError):
        key = ""
    return await _by_key(websocket, key, context, roles)


async def _by_key(websocket: WebSocket, key: str, context: EdgeContext, roles: Collection[Role]) -> Grant:
    """The grant of a key. Raises Problem.

    Failures are counted by address and name, and opened sockets by key: as for keys in headers.
    """
    rates, name = context.rates, key.partition(":")[0]
    address = websocket.client.host if websocket.client else ""
    try:
        if len(key) > MAX_KEY_BYTES:
            raise unknown_key()
        grants = grants_alone(key, context.keyring)
    except Problem:
        failed = await rates.failures(address, name, count=True) if rates else None
        if rates is not None and failed is not None and not failed.allowed:
            await rates.delay(address)
            raise too_many(failed, TOO_MANY_FAILURES) from None
        raise
    grant = grant_for(grants, *roles)
    principal = grant.principal
    spent = await rates.spend(principal.role.value, principal.name) if rates else None
    if spent is not None and not spent.allowed:
        raise too_many(spent, "this key has made too many requests; wait as long as Retry-After says")
    return grant


def _check_origin(headers: Headers, allowed: Collection[str]) -> None:
    """Browsers send the page's origin: it must be this host, or allowed. Raises Problem."""
    origin = headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed:
        return
    if urlsplit(origin).netloc != headers.get("host"):
        raise Problem(Code.FORBIDDEN, "this origin may not open a WebSocket; see ALLOW_ORIGINS")
