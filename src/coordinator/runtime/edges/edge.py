"""An edge process: it speaks HTTP and TLS with clients, and hands their requests to the core process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from coordinator.application.background import BackgroundTask
from coordinator.edge.app import create_app
from coordinator.edge.context import EdgeContext
from coordinator.edge.relay.asking import Asking
from coordinator.edge.relay.calling import Relay
from coordinator.edge.relay.local import LocalCommands
from coordinator.edge.relay.ports import Absent, CoreGateway, CoreRates, LearnedKeys
from coordinator.edge.state.open_connections import ConnectionLimits, OpenConnections
from coordinator.runtime.edge import edge_settings
from coordinator.runtime.process.connection_limits import allow_connections, connection_limits
from coordinator.runtime.process.garbage_collection import collect_rarely, return_large_blocks
from coordinator.runtime.process.http_server import serve_app
from coordinator.runtime.process.ports import listen
from coordinator.runtime.settings import Settings

COUNT_SECONDS: Final = 1.0
"""Between reports of the requests that were answered here."""


async def serve_edge(settings: Settings, address: Path, port: int, on_ready: Callable[[], None]) -> None:
    """Serve this port until SIGTERM or SIGINT, once the core's local socket at `address` answers.

    Raises OSError.
    """
    allow_connections(settings.max_connections)
    limits = connection_limits(settings)
    relay, asking = Relay(address), Asking(address)
    keys = LearnedKeys(asking)
    context = context_of_commands(settings, asking, keys, limits)
    commands = LocalCommands(create_app(context), relay, asking, keys)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await commands(scope, receive, send)

    async def tell_counts() -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            if asking.connected and (counts := context.http_metrics.take()):
                asking.count(counts)

    counting = BackgroundTask("counts")
    share = share_of(limits, settings.edges)
    await asking.start()
    await asking.reached()
    with contextlib.closing(listen(settings.app_host, port, shared=True)) as listener:
        counting.start(tell_counts)
        collect_rarely()
        return_large_blocks()
        try:
            await serve_app(app, listener, settings, share, on_started=on_ready)
        finally:
            await counting.stop()
            if asking.connected and (counts := context.http_metrics.take()):
                asking.count(counts)
                await asyncio.sleep(0)
            await asking.stop()
            await relay.stop()


def context_of_commands(
    settings: Settings, asking: Asking, keys: LearnedKeys, limits: ConnectionLimits
) -> EdgeContext:
    """The ports of an application that answers commands, and no other request."""
    absent: Any = Absent()
    return EdgeContext(
        gateway=CoreGateway(asking, keys),
        keyring=keys,
        rates=CoreRates(asking, settings.rate_limits),
        settings=edge_settings(settings),
        open_connections=OpenConnections(limits),  # the core counts the commands of all processes, too
        log=absent,
        miners=absent,
        database=absent,
        queues=absent,
        receipts=absent,
        blobs=absent,
        webhook_keys=absent,
        watermarks=absent,
        live=absent,
        used_signatures=absent,
        health=absent,
    )


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
