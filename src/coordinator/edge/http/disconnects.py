"""The client of a request that waits: whether it is gone, without a task that listens.

Our server's connections (`edge.server.http_connection`) call back when they are lost. With any other server,
as in tests of the application alone, a task reads the request's messages until its disconnect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.requests import Request

CLIENT: Final = "client"
"""The name under which a request's state has its `RequestClient`, if our server made it."""


class RequestClient:
    """The client of one request."""

    __slots__ = ("_on_gone", "gone", "has_sent_all")

    def __init__(self, *, has_sent_all: bool = False) -> None:
        self.has_sent_all = has_sent_all
        """Whether the request's whole body has arrived."""
        self.gone = False
        """Whether it has disconnected."""
        self._on_gone: Callable[[], None] | None = None

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call back, in place of an earlier callback, when the client disconnects; at once if it is gone."""
        self._on_gone = callback
        if self.gone:
            callback()

    def forget(self) -> None:
        """Call nobody back."""
        self._on_gone = None

    def leave(self) -> None:
        """The client has disconnected."""
        self.gone = True
        if self._on_gone is not None:
            self._on_gone()


@contextlib.asynccontextmanager
async def client_of(request: Request) -> AsyncIterator[RequestClient]:
    """The client, watched within the block. The body must have been read."""
    client: RequestClient | None = request.scope.get("state", {}).get(CLIENT)
    if client is not None:
        try:
            yield client
        finally:
            client.forget()
        return
    client = RequestClient()

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        client.leave()

    listening = asyncio.ensure_future(listen())
    try:
        yield client
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
