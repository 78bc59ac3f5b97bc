"""Refusals of WebSocket handshakes: corrections of the server and of the router."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem

_DENIED: Final = "websocket.http.response.body"


class RefusedWebSockets(WebSocketsSansIOProtocol):
    """uvicorn's protocol, corrected: an answer other than 101 ends the handshake, too.

    Otherwise it logs an error for each refusal, and strangers with invalid keys could fill the log.
    """

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == _DENIED and not message.get("more_body", False):
            self.handshake_complete = True


def answer_unknown_sockets(app: FastAPI) -> None:
    """Answer 404 to sockets at other paths, as to requests: Starlette's 403 would mean an invalid key."""
    unknown = app.router.default

    async def default(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            problem = Problem(Code.UNKNOWN_COMMAND, "no such WebSocket; try /ws/client or /ws/miner")
            await WebSocket(scope, receive, send).send_denial_response(problem.response())
        else:
            await unknown(scope, receive, send)

    app.router.default = default
