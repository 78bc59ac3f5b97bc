"""The core process: the whole coordinator, which answers edge processes over a local socket."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from coordinator.application.background import BackgroundTask
from coordinator.application.ports import LogUnavailable
from coordinator.edge.relay.answering import CoreSocket
from coordinator.runtime.bootstrap import build
from coordinator.runtime.coordinator import CoordinatorProcess
from coordinator.runtime.edge import edge_of
from coordinator.runtime.process.connection_limits import allow_connections, connection_limits
from coordinator.runtime.process.garbage_collection import collect_rarely, return_large_blocks
from coordinator.runtime.process.http_server import STOP_SECONDS
from coordinator.runtime.server import useless
from coordinator.runtime.settings import Settings

LEAVE_SECONDS: Final = 1.0
"""For edge processes that stop with us to end; then exchanges under way alone are waited for."""
LOOK_SECONDS: Final = 0.02


async def serve_core(
    settings: Settings, address: Path, on_ready: Callable[[CoordinatorProcess], None]
) -> None:
    """Answer at this local socket until SIGTERM or SIGINT.

    Raises OSError, LogUnavailable, ConnectionError, DataDirectoryInUse.
    """
    allow_connections(settings.max_connections)
    coordinator = build(settings)
    try:
        await coordinator.start()
        collect_rarely()
        return_large_blocks()
        await _serve(coordinator, address, on_ready)
    finally:
        await coordinator.stop()
    if coordinator.parts.restart is not None:
        raise LogUnavailable(coordinator.parts.restart)


async def _serve(
    coordinator: CoordinatorProcess, address: Path, on_ready: Callable[[CoordinatorProcess], None]
) -> None:
    app = edge_of(coordinator, connection_limits(coordinator.settings))
    edges, stopping = CoreSocket(address, app, app.state.context), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    async def end_if_useless() -> None:
        await useless(coordinator)
        stopping.set()

    watch = BackgroundTask("restart-watch")
    watch.start(end_if_useless)
    async with app.router.lifespan_context(app):
        try:
            await edges.start()
            on_ready(coordinator)
            await stopping.wait()
            # Requests that wait are answered at once, so that the edge processes can end.
            coordinator.end_waits()
            await _until_quiet(edges)
        finally:
            await watch.stop()
            await edges.stop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


async def _until_quiet(edges: CoreSocket) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while len(edges):
        waited = loop.time() - begun
        if waited > STOP_SECONDS or (waited > LEAVE_SECONDS and not edges.under_way):
            return
        await asyncio.sleep(LOOK_SECONDS)
