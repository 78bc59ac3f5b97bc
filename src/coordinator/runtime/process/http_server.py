"""The HTTP server of a process: its port, its limits, and an orderly stop at a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from coordinator.application.background import BackgroundTask
from coordinator.edge.server.connections import Connections
from coordinator.edge.server.http_connection import BoundedHttp
from coordinator.edge.server.websocket_connection import BoundedWebSocket
from coordinator.edge.state.open_connections import ConnectionLimits
from coordinator.runtime.process.garbage_collection import return_free_memory
from coordinator.runtime.process.tls import Certificate, certificate_of
from coordinator.runtime.settings import Settings
from coordinator.wire.limits import MAX_BODY_BYTES

KEEP_ALIVE_SECONDS = 75
PING_SECONDS = 20.0  # between pings on a WebSocket, and for each answer before it is closed
LOOPBACK = ("127.0.0.1", "::1")
STOP_SECONDS = 10  # for the requests under way at a stop


class ServerConfig(uvicorn.Config):
    """uvicorn's settings, and all connections of the server."""

    connections: Connections


def configure(
    app: ASGIApp, limits: ConnectionLimits | None = None, certificate: Certificate | None = None
) -> ServerConfig:
    """The settings of the HTTP server; HTTPS with a certificate."""
    config = ServerConfig(
        app,
        http=BoundedHttp,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        ws=BoundedWebSocket,
        ws_max_size=MAX_BODY_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        # Compression would cost some 40 KiB a socket, and messages are small.
        ws_per_message_deflate=False,
        lifespan="on",
    )
    if certificate is not None:
        config.load()
        config.ssl = certificate.context
    config.connections = Connections(limits, on_many_lost=return_free_memory)
    return config


class _Server(uvicorn.Server):
    """uvicorn, with our own handling of signals: the coordinator stops after its edge, in order."""

    on_started: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_app(
    app: ASGIApp,
    listener: socket.socket,
    settings: Settings,
    limits: ConnectionLimits,
    *,
    on_started: Callable[[], None],
    on_stop: Callable[[], None] = lambda: None,
    useless: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Serve this application until SIGTERM or SIGINT, or until `useless` returns.

    `on_stop` is called when the stop begins.
    """
    certificate = certificate_of(settings)
    server = _Server(configure(app, limits, certificate))

    def stop() -> None:
        on_stop()
        server.should_exit = True

    # Taken when the server starts, as an address or network each: X-Forwarded-For of others does not count.
    server.config.forwarded_allow_ips = list(settings.forwarded_allow_ips or LOOPBACK)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    async def end_if_useless() -> None:
        if useless is not None:
            await useless()
            stop()

    watch = BackgroundTask("restart-watch")
    watch.start(end_if_useless)
    renewal = BackgroundTask("certificate")
    if certificate is not None:
        renewal.start(certificate.watch)
    server.on_started = on_started
    try:
        await server.serve(sockets=[listener])
    finally:
        await watch.stop()
        await renewal.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
