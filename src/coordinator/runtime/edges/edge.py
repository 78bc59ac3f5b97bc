"""An edge process: it speaks HTTP and TLS with clients, and hands their requests to the core process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

from starlette.types import Receive, Scope, Send

from coordinator.edge.relay.calling import Relay
from coordinator.edge.state.open_connections import ConnectionLimits
from coordinator.runtime.process.connection_limits import allow_connections, connection_limits
from coordinator.runtime.process.garbage_collection import collect_rarely, return_large_blocks
from coordinator.runtime.process.http_server import listen, serve_app
from coordinator.runtime.settings import Settings


async def serve_edge(settings: Settings, address: Path, port: int, on_ready: Callable[[], None]) -> None:
    """Serve this port until SIGTERM or SIGINT; `address` is the core's local socket. Raises OSError."""
    allow_connections(settings.max_connections)
    limits = share_of(connection_limits(settings), settings.edges)
    relay = Relay(address)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await relay(scope, receive, send)

    collect_rarely()
    return_large_blocks()
    with contextlib.closing(listen(settings.app_host, port, shared=True)) as listener:
        try:
            await serve_app(app, listener, settings, limits, on_started=on_ready)
        finally:
            await relay.stop()


def share_of(limits: ConnectionLimits, edges: int) -> ConnectionLimits:
    """The connections that one of so many edge processes may have.

    What belongs to a key is counted by the core.
    """
    return dataclasses.replace(
        limits, total=-(-limits.total // edges), per_address=-(-limits.per_address // edges)
    )


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
