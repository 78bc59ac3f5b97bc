"""Answers requests directly, without the framework's layers between middleware and endpoint.

What those layers do for our endpoints is done here: the route in the scope, the arguments, and the handlers
of exceptions. Any other request goes on to the framework: an unknown path, a method that a path has not, a
WebSocket, and an endpoint that uses more of the framework than this package knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.edge.routing.arguments import Call
from coordinator.edge.routing.routes_by_path import RoutesByPath


class DirectAnswers:
    """ASGI middleware, innermost."""

    def __init__(self, app: ASGIApp, routes: RoutesByPath) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and not scope.get("root_path"):
            found = self._routes.find(scope["method"], scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        direct, call, scope["path_params"] = found
        scope["route"] = direct.route
        await _answer(call, scope, receive, send)


async def _answer(call: Call, scope: Scope, receive: Receive, send: Send) -> None:
    started = False

    async def send_and_note(message: Message) -> None:
        nonlocal started
        if message["type"] == "http.response.start":
            started = True
        await send(message)

    request = Request(scope, receive, send_and_note)
    try:
        response = await _response(call, request)
        await response(scope, receive, send_and_note)
    except Exception as error:
        handler = _handler_of(error, scope)
        if handler is None:
            raise
        if started:
            raise RuntimeError("an exception with a handler came after the answer had begun") from error
        failure = await handler(request, error)
        await failure(scope, receive, send_and_note)
        error.__traceback__ = None  # its frames refer to the request, and so to it: a cycle


async def _response(call: Call, request: Request) -> Response:
    arguments, errors = await call.arguments(request)
    if errors:
        raise RequestValidationError(errors)
    response: Response = await call.function(**arguments)
    return response


def _handler_of(error: Exception, scope: Scope) -> Callable[..., Any] | None:
    """The application's handler of the nearest class of the error."""
    handlers = scope["app"].exception_handlers
    for kind in type(error).__mro__:
        if kind in handlers:
            handler: Callable[..., Any] = handlers[kind]
            return handler
    return None
