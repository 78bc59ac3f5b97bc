"""Run a coordinator with its HTTP edge until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial

from coordinator.application.ports import LogUnavailable
from coordinator.runtime.bootstrap import build
from coordinator.runtime.coordinator import CoordinatorProcess
from coordinator.runtime.edge import edge_of
from coordinator.runtime.process.connection_limits import allow_connections, connection_limits
from coordinator.runtime.process.event_loop import run_loop
from coordinator.runtime.process.garbage_collection import collect_rarely, return_large_blocks
from coordinator.runtime.process.http_server import serve_app
from coordinator.runtime.process.ports import listen
from coordinator.runtime.process.tls import certificate_of
from coordinator.runtime.settings import Settings

RESTART_SECONDS = 3.0  # a process that only a restart helps ends after about twice so long


def run(
    settings: Settings,
    on_ready: Callable[[CoordinatorProcess, int], None] = lambda c, port: None,
    build: Callable[[Settings], CoordinatorProcess] = build,
) -> None:
    """Serve until SIGTERM or SIGINT. `on_ready(coordinator, port)` is called once requests are answered.

    Raises OSError (the port is taken), LogUnavailable, ConnectionError, DataDirectoryInUse.
    """
    run_loop(serve(settings, on_ready, build))


async def serve(
    settings: Settings,
    on_ready: Callable[[CoordinatorProcess, int], None],
    build: Callable[[Settings], CoordinatorProcess] = build,
) -> None:
    """Like `run`, on the running event loop."""
    allow_connections(settings.max_connections)
    certificate_of(settings)  # an error before anything is opened
    listener = listen(settings.app_host, settings.app_port)
    with contextlib.closing(listener):
        coordinator = build(settings)
        try:
            await coordinator.start()
            collect_rarely()
            return_large_blocks()
            await _serve(coordinator, listener, on_ready)
        finally:
            await coordinator.stop()


async def _serve(
    coordinator: CoordinatorProcess,
    listener: socket.socket,
    on_ready: Callable[[CoordinatorProcess, int], None],
) -> None:
    limits = connection_limits(coordinator.settings)
    await serve_app(
        edge_of(coordinator, limits),
        listener,
        coordinator.settings,
        limits,
        on_started=lambda: on_ready(coordinator, listener.getsockname()[1]),
        on_stop=coordinator.end_waits,
        useless=partial(useless, coordinator),
    )
    if coordinator.parts.restart is not None:
        raise LogUnavailable(coordinator.parts.restart)


async def useless(coordinator: CoordinatorProcess) -> None:
    """Returns once only a restart helps this process, and a little after `/health/live` tells why."""
    while coordinator.parts.restart is None:  # noqa: ASYNC110 - the log's threads find out
        await asyncio.sleep(RESTART_SECONDS)
    await asyncio.sleep(RESTART_SECONDS)
