"""Request ids, the access log, the headers of every answer, and answers to unexpected errors.

The middleware from the outside in: `AccessLog`, CORS (if the settings allow other origins),
`UnexpectedErrors`, `Authentication`, `HeadRequests`. So every answer, also a 429, has the headers of all
outer ones.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
from typing import Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.application.commands.ids import Ids
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.problems import MISDIRECTED, internal_problem
from coordinator.edge.http.response_headers import DEFAULT_HEADERS, set_headers
from coordinator.edge.middleware.spans import begin_request, end_request
from coordinator.telemetry import tracing

REQUEST_ID_HEADER: Final = "X-Request-Id"
CLIENT_GONE: Final = 499  # for the log only: the client has disconnected
MAX_LOGGED_PATH: Final = 200
_REQUEST_ID_NAME: Final = REQUEST_ID_HEADER.lower().encode()
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")

_ids = Ids()
access_log = structlog.get_logger("coordinator.access")
log = structlog.get_logger("edge")


class AccessLog:
    """ASGI middleware, outermost. Plain ASGI, so that disconnects reach the endpoints behind it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: EdgeContext = scope["app"].state.context
        metrics = context.http_metrics
        request_id, unread = _read_headers(scope)
        status = 0

        async def receive_and_note() -> Message:
            nonlocal unread
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                unread = False
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(_REQUEST_ID_NAME, request_id)]
                if unread and scope["http_version"].startswith("1"):
                    # The request is answered: without this, the server would read the rest of its body.
                    headers.append((b"connection", b"close"))
                set_headers(message, headers, DEFAULT_HEADERS)
            await send(message)

        tracer = tracing.tracer()
        span = None if tracer is None else begin_request(tracer, scope)
        began = time.monotonic()
        metrics.under_way += 1
        bound = structlog.contextvars.bind_contextvars(request_id=request_id.decode())
        try:
            await self._app(scope, receive_and_note, send_with_headers)
        except ClientDisconnect:
            status = CLIENT_GONE
        finally:
            metrics.under_way -= 1
            seconds = time.monotonic() - began
            if status != MISDIRECTED:  # the core counts it
                metrics.count(scope, status or CLIENT_GONE, seconds)
                _log_access(scope, status or CLIENT_GONE, seconds)
            if span is not None:
                end_request(span, scope, status or CLIENT_GONE)
            structlog.contextvars.reset_contextvars(**bound)


class UnexpectedErrors:
    """ASGI middleware: answers an unexpected exception with a problem that shows nothing of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            raise
        except Exception as error:
            # As text: renderers that walk through local variables would show keys and payloads.
            log.error("a request failed", exception="".join(traceback.format_exception(error)))
            if started:
                raise  # the answer has begun: only a cut connection shows that it failed
            await internal_problem().response()(scope, receive, send)


def _read_headers(scope: Scope) -> tuple[bytes, bool]:
    """The request's id, which is the first one given or a new one; and whether it has a body."""
    given, length, chunked = None, None, False
    for name, value in scope["headers"]:
        if name == _REQUEST_ID_NAME and given is None:
            given = value
        elif name == b"content-length" and length is None:
            length = value
        elif name == b"transfer-encoding":
            chunked = True
    known = given is not None and _REQUEST_ID.fullmatch(given)
    request_id = given if known and given is not None else _ids.request_id()
    return request_id, chunked or length not in (None, b"0")


def _log_access(scope: Scope, status: int, seconds: float) -> None:
    # Percent-encoded, as sent, so without line breaks. Without the query, which may be private.
    path = scope.get("raw_path", b"").partition(b"?")[0].decode("ascii", "backslashreplace")
    level = logging.DEBUG if path.startswith("/health") else logging.INFO
    if not access_log.is_enabled_for(level):
        return
    access_log.log(
        level,
        "request",
        method=scope["method"],
        path=path[:MAX_LOGGED_PATH],
        status=status,
        milliseconds=round(seconds * 1000, 1),
        principal=scope.get("state", {}).get("principal"),
    )
