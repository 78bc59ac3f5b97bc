"""The side of the core: a local socket, and the application that answers the exchanges of the edge processes.

Everybody who can open the socket is trusted as the server in front of the application is: with the address of
a client, and with the scheme. So the socket lies in a folder of our account alone, and the kernel names the
account of each peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
from starlette.types import ASGIApp, Message, Scope

from coordinator.application.background import Background
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.disconnects import CLIENT, RequestClient
from coordinator.edge.relay.frames import PIECE_BYTES, BadFrame, Frame, Kind
from coordinator.edge.relay.link import Link
from coordinator.edge.relay.scopes import headers_to_json, scope_from_json
from coordinator.edge.relay.telling import Telling
from coordinator.edge.server.websocket_connection import TRUST

BACKLOG: Final = 2048
_CREDENTIALS: Final = struct.Struct("3i")
_LATE: Final = (Kind.REQUEST, Kind.REQUEST_END, Kind.DISCONNECT, Kind.SOCKET_GONE)
"""The rest of an exchange that was answered before it was read."""

log = structlog.get_logger("edge")

Serve = Callable[[Link, Frame], Any]


class CoreSocket:
    """The core's local socket. `start` and `stop` may each be called twice."""

    def __init__(self, address: Path, app: ASGIApp, context: EdgeContext | None = None) -> None:
        """`address`: a path in a folder that only our account may use.

        `context` answers the questions of edge processes; None: none are answered.
        """
        self._address = address
        self._context = context
        self._app = app
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._serving = Background("edge-exchange")
        self.under_way = 0
        """The exchanges that the application answers now."""

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._links)

    async def start(self) -> None:
        """Listen. Raises OSError."""
        if self._server is not None:
            return
        with contextlib.suppress(FileNotFoundError):
            self._address.unlink()  # of a core before this one
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(str(self._address))
        self._address.chmod(0o600)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._link, sock=listener, backlog=BACKLOG)

    async def stop(self) -> None:
        """Accept no more connections, and cut the open ones."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for link in list(self._links):
            link.close()
        await self._serving.stop()
        with contextlib.suppress(FileNotFoundError):
            self._address.unlink()

    def _link(self) -> Link:
        return Link(self._made, self._links.discard)

    def _made(self, link: Link) -> None:
        if not is_ours(link.transport.get_extra_info("socket")):
            log.warning("another account opened the local socket; its connection is cut")
            link.close()
            return
        self._links.add(link)
        self._serving.spawn(self._serve(link))

    async def _serve(self, link: Link) -> None:
        try:
            while (frame := await link.take()) is not None:
                if frame.kind is Kind.HELLO and self._context is not None:
                    await Telling(link, self._context).run()
                    return
                if frame.kind is Kind.SCOPE:
                    self.under_way += 1
                    try:
                        await _Exchange(link).run(self._app, scope_from_json(frame.json()))
                    finally:
                        self.under_way -= 1
                elif frame.kind not in _LATE:
                    raise BadFrame("an exchange begins with its scope")
        except BadFrame as error:
            log.warning("the local connection is cut", reason=str(error))
        finally:
            link.close()


def is_ours(peer: Any) -> bool:
    """Whether the peer of a local connection is of our account; True where the system does not tell."""
    if peer is None or not hasattr(socket, "SO_PEERCRED"):  # Linux has it
        return True
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, account, _ = _CREDENTIALS.unpack(credentials)
    return bool(account == os.geteuid())


class _Exchange:
    """One request or WebSocket, as the application sees it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._read_all = False
        self._started = False
        self._over = False
        self._client = RequestClient()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Have the application answer. Raises BadFrame."""
        http = scope["type"] == "http"
        if http:
            # As our server's own connections do: no task listens, and no timer guards a body that is here.
            whole = self._link.has(Kind.REQUEST_END) and not self._link.has(Kind.REQUEST)
            self._client.has_sent_all = whole  # in one message, which the reader of a body expects then
            scope["state"][CLIENT] = self._client
            self._link.watch(self._note_change)
            self._note_change()  # it may have left already
        else:
            scope["extensions"][TRUST] = lambda: self._link.write(Kind.TRUST)
        try:
            await app(scope, self._receive if http else self._receive_message, self._send)
        except BadFrame:
            raise
        except Exception:
            log.exception("an exchange failed")
        finally:
            self._link.watch(None)
        if not self._over and not self._link.lost:
            self._link.write(Kind.CUT)
            self._link.close()
        self._link.flush()
        scope["extensions"].clear()

    def _note_change(self) -> None:
        link = self._link
        if link.lost or link.has(Kind.DISCONNECT, Kind.SCOPE):  # a scope: the next exchange of the connection
            link.watch(None)
            self._client.leave()

    async def _receive(self) -> Message:
        frame = await self._link.take()
        if frame is not None and frame.kind is Kind.SCOPE:
            self._link.put_back(frame)  # the next exchange: this one is over for the client
            return {"type": "http.disconnect"}
        if frame is None or frame.kind is Kind.DISCONNECT:
            return {"type": "http.disconnect"}
        if frame.kind not in (Kind.REQUEST, Kind.REQUEST_END) or self._read_all:
            raise BadFrame("not a part of a request")
        self._read_all = frame.kind is Kind.REQUEST_END
        return {"type": "http.request", "body": frame.data, "more_body": not self._read_all}

    async def _receive_message(self) -> Message:
        frame = await self._link.take()
        if frame is None:
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        match frame.kind:
            case Kind.SOCKET_CONNECT:
                return {"type": "websocket.connect"}
            case Kind.SOCKET_TEXT:
                return {"type": "websocket.receive", "text": frame.data.decode(errors="surrogatepass")}
            case Kind.SOCKET_BYTES:
                return {"type": "websocket.receive", "bytes": frame.data}
            case Kind.SOCKET_GONE:
                code, reason = frame.json()
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            case _:
                raise BadFrame("not a message of a WebSocket")

    async def _send(self, message: Message) -> None:
        link, kind = self._link, message["type"]
        if self._over:
            return
        if kind.endswith("response.start"):
            link.hold(Kind.START, [message["status"], headers_to_json(message.get("headers", ()))])
            return
        if kind.endswith("response.body"):
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "websocket.accept":
            link.write(Kind.ACCEPT, [message.get("subprotocol"), headers_to_json(message.get("headers", ()))])
        elif kind == "websocket.close":
            self._over = True
            link.write(Kind.CLOSE, [message.get("code", 1000), message.get("reason") or ""])
        elif message.get("text") is not None:
            link.write(Kind.SEND_TEXT, data=message["text"].encode(errors="surrogatepass"))
        else:
            link.write(Kind.SEND_BYTES, data=message["bytes"])
        await link.drain()

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        link = self._link
        while len(body) > PIECE_BYTES:
            link.write(Kind.ANSWER, data=body[:PIECE_BYTES])
            body = body[PIECE_BYTES:]
            await link.drain()
        self._over = not more
        link.write(Kind.ANSWER if more else Kind.ANSWER_END, data=bytes(body))
