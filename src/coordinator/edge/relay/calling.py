"""The side of an edge process: an application of ASGI that hands each exchange to the core.

A connection to the core carries one exchange at a time, and is used again after a complete one. So a slow
client holds up its own connection alone, and an exchange that ends early ends its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from coordinator.domain.errors import Code
from coordinator.edge.http.bodies import has_body
from coordinator.edge.http.disconnects import CLIENT, RequestClient
from coordinator.edge.http.problems import Problem
from coordinator.edge.http.response_headers import DEFAULT_HEADERS, set_headers
from coordinator.edge.relay.frames import PIECE_BYTES, Frame, Kind
from coordinator.edge.relay.link import Link
from coordinator.edge.relay.scopes import headers_from_json, scope_to_json
from coordinator.edge.server.websocket_connection import trust

CONNECT_SECONDS: Final = 5.0
QUIET_SECONDS: Final = 0.05
"""An answer that takes longer is watched for: its client may leave meanwhile."""
MOST_IDLE: Final = 256
"""Connections to the core that wait for an exchange."""
SERVICE_RESTART: Final = 1012
"""The code of a WebSocket that ends with the core."""
AWAY: Final = "the coordinator is restarting; send the request again later"


class CoreGone(Exception):
    """The core can't be reached, or ended before its answer."""


class Relay:
    """The application of an edge process. Used on the event loop."""

    def __init__(self, address: Path) -> None:
        """`address`: the core's local socket."""
        self._address = address
        self._idle: list[Link] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, receive, send)
        link: Link | None = None
        clean = False
        try:
            link = await self._connected()
            clean = await (exchange.socket(link) if scope["type"] == "websocket" else exchange.request(link))
        except CoreGone:
            await exchange.refuse()
        finally:
            if link is not None:
                self._give_back(link, clean=clean)

    async def stop(self) -> None:
        """Close the connections that wait."""
        for link in list(self._idle):
            link.close()

    async def _connected(self) -> Link:
        while self._idle:
            link = self._idle.pop()
            if not link.lost:
                return link
        return await connect(self._address, on_lost=self._forget)

    def _give_back(self, link: Link, *, clean: bool) -> None:
        if clean and not link.lost and len(self._idle) < MOST_IDLE:
            self._idle.append(link)
        else:
            link.close()

    def _forget(self, link: Link) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(link)


async def connect(address: Path, on_lost: Callable[[Link], None] = lambda link: None) -> Link:
    """A new connection to the core. Raises CoreGone."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, link = await loop.create_unix_connection(lambda: Link(on_lost=on_lost), str(address))
    except OSError as error:  # TimeoutError is one
        raise CoreGone from error
    return link


class _Exchange:
    """One request or WebSocket."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        """Whether the client has got the beginning of an answer."""
        self._sent_all = False
        """Whether the core has the whole request."""

    # --- a request -----------------------------------------------------------------------------------------
    async def request(self, link: Link) -> bool:
        """Carry a request out; returns whether the connection may carry another one. Raises CoreGone."""
        link.hold(Kind.SCOPE, scope_to_json(self._scope))
        client: RequestClient | None = self._scope.get("state", {}).get(CLIENT)
        if client is not None and client.has_sent_all:
            return await self._whole_request(link, client)
        sending: asyncio.Task[None] | None = None
        if has_body(Headers(scope=self._scope)):
            sending = asyncio.create_task(self._send_request(link), name="relay-request")
            await asyncio.sleep(0)  # a body that has arrived goes with the scope
            link.flush()
        else:
            link.write(Kind.REQUEST_END)
            self._sent_all = True
        try:
            frame = await self._first(link) if sending is None else await link.take()
            if frame is None and sending is None and not link.lost:
                sending = asyncio.create_task(self._send_request(link), name="relay-request")
                frame = await link.take()
            while frame is not None:
                if await self._pass_on(frame):
                    return self._sent_all
                frame = link.at_hand()
                if frame is None:
                    if sending is None:
                        sending = asyncio.create_task(self._send_request(link), name="relay-request")
                    frame = await link.take()
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        raise CoreGone

    async def _whole_request(self, link: Link, client: RequestClient) -> bool:
        """The same for a request that has arrived: nothing is left to do but to wait for the answer."""
        if has_body(Headers(scope=self._scope)):
            while not self._sent_all and (message := await self._receive())["type"] != "http.disconnect":
                await self._send_part(link, message)
        else:
            link.write(Kind.REQUEST_END)
            self._sent_all = True
        client.on_gone(lambda: link.write(Kind.DISCONNECT))
        try:
            while (frame := await link.take()) is not None:
                if await self._pass_on(frame):
                    return self._sent_all
        finally:
            client.forget()
        raise CoreGone

    async def _first(self, link: Link) -> Frame | None:
        """The first frame of the answer; None if it does not come soon."""
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                return await link.take()
        except TimeoutError:
            return None

    async def _send_request(self, link: Link) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                link.write(Kind.DISCONNECT)
                return
            if not self._sent_all:
                await self._send_part(link, message)

    async def _send_part(self, link: Link, message: Message) -> None:
        """Hand a part of the request's body on."""
        body, more = message.get("body", b""), message.get("more_body", False)
        while len(body) > PIECE_BYTES:
            link.write(Kind.REQUEST, data=body[:PIECE_BYTES])
            body = body[PIECE_BYTES:]
            await link.drain()
        link.write(Kind.REQUEST if more else Kind.REQUEST_END, data=body)
        self._sent_all = not more
        await link.drain()

    async def _pass_on(self, frame: Frame) -> bool:
        """Pass a frame of an answer on to the client; returns whether it was the last one."""
        match frame.kind:
            case Kind.START:
                status, headers = frame.json()
                self._started = True
                await self._send(
                    {
                        "type": f"{self._prefix}.start",
                        "status": status,
                        "headers": headers_from_json(headers),
                    }
                )
            case Kind.ANSWER | Kind.ANSWER_END:
                more = frame.kind is Kind.ANSWER
                await self._send({"type": f"{self._prefix}.body", "body": frame.data, "more_body": more})
                return not more
            case _:
                raise CoreGone
        return False

    @property
    def _prefix(self) -> str:
        return "http.response" if self._scope["type"] == "http" else "websocket.http.response"

    # --- a WebSocket ---------------------------------------------------------------------------------------
    async def socket(self, link: Link) -> bool:
        """Carry a WebSocket out. Its connection is not used again. Raises CoreGone."""
        link.write(Kind.SCOPE, scope_to_json(self._scope))
        sending = asyncio.create_task(self._send_messages(link), name="relay-socket")
        try:
            while (frame := await link.take()) is not None:
                if await self._pass_message_on(frame):
                    return False
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if sending.done() and self._sent_all:
            return False  # the client has left
        raise CoreGone

    async def _send_messages(self, link: Link) -> None:
        while True:
            message = await self._receive()
            match message["type"]:
                case "websocket.connect":
                    link.write(Kind.SOCKET_CONNECT)
                case "websocket.receive" if message.get("text") is not None:
                    link.write(Kind.SOCKET_TEXT, data=message["text"].encode(errors="surrogatepass"))
                case "websocket.receive":
                    link.write(Kind.SOCKET_BYTES, data=message.get("bytes") or b"")
                case _:
                    self._sent_all = True
                    link.write(Kind.SOCKET_GONE, [message.get("code"), message.get("reason")])
                    return
            await link.drain()

    async def _pass_message_on(self, frame: Frame) -> bool:
        """Pass a message on to the client; returns whether it was the last one."""
        match frame.kind:
            case Kind.ACCEPT:
                subprotocol, headers = frame.json()
                self._started = True
                message: Message = {
                    "type": "websocket.accept",
                    "subprotocol": subprotocol,
                    "headers": headers_from_json(headers),
                }
            case Kind.SEND_TEXT:
                message = {"type": "websocket.send", "text": frame.data.decode(errors="surrogatepass")}
            case Kind.SEND_BYTES:
                message = {"type": "websocket.send", "bytes": frame.data}
            case Kind.CLOSE:
                code, reason = frame.json()
                self._started = self._sent_all = True
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return True
            case Kind.TRUST:
                trust(self._scope)
                return False
            case _:
                return await self._pass_on(frame)
        await self._send(message)
        return False

    # --- without the core ----------------------------------------------------------------------------------
    async def refuse(self) -> None:
        """Tell the client that the core is away."""
        if self._scope["type"] == "websocket":
            await self._refuse_socket()
        elif self._started:
            raise CoreGone  # the answer has begun: only a cut connection shows that it failed
        else:
            await absent(self._scope, self._receive, self._send)

    async def _refuse_socket(self) -> None:
        if self._started:
            message = {
                "type": "websocket.close",
                "code": SERVICE_RESTART,
                "reason": "the coordinator restarts",
            }
            await self._send(message)
            return
        websocket = WebSocket(self._scope, self._receive, self._send)
        await websocket.send_denial_response(Problem(Code.UNAVAILABLE, AWAY).response())


async def absent(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a request while the core is away: 503, and for probes of this process 200."""
    path = scope["path"]
    if path in ("/health", "/health/live", "/health/ready", "/health/startup"):
        answer: Response = _health(alive=path in ("/health/live", "/health/startup"))
    else:
        answer = Problem(Code.UNAVAILABLE, AWAY).response()
    unread = has_body(Headers(scope=scope))

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(b"x-request-id", uuid.uuid4().hex.encode())]
            if unread:
                own.append((b"connection", b"close"))
            set_headers(message, own, DEFAULT_HEADERS)
        await send(message)

    await answer(scope, receive, send_with_headers)


def _health(*, alive: bool) -> Response:
    reasons = ["the core process is not reachable"]
    body = {"status": "ok" if alive else "failing", "reasons": reasons, "live": True, "ready": False}
    return JSONResponse(body, 200 if alive else 503, None if alive else {"Retry-After": "1"})
