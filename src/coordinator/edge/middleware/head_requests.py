"""HEAD wherever GET is: status and headers of the answer to a GET, without its body (RFC 9110, 9.3.2).

FastAPI gives an endpoint the methods that it names and no others, so probes and caches would get a 405.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """Innermost, so that signatures, rates and the access log see the method that was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _has_own_endpoint(scope):
            await self._app(scope, receive, send)
            return

        endless = False

        async def send_finite(message: Message) -> None:
            # The server leaves the body out. An answer without a length may be a stream of events, which has
            # no end: it is ended here, and its endpoint reads a disconnect from then on.
            nonlocal endless
            if message["type"] == "http.response.start":
                await send(message)
                endless = "content-length" not in Headers(raw=message["headers"])
                if endless:
                    await send({"type": "http.response.body", "body": b""})
            elif not endless:
                await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_finite)


def _has_own_endpoint(scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in scope["app"].routes)
