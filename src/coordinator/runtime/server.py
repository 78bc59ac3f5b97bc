"""Run a coordinator with its HTTP edge until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from coordinator.application.background import BackgroundTask
from coordinator.application.ports import LogUnavailable
from coordinator.edge.server.connections import Connections
from coordinator.edge.server.http_connection import BoundedHttp
from coordinator.edge.server.websocket_connection import BoundedWebSocket
from coordinator.edge.state.open_connections import ConnectionLimits
from coordinator.runtime.bootstrap import build
from coordinator.runtime.coordinator import CoordinatorProcess
from coordinator.runtime.edge import edge_of
from coordinator.runtime.process.connection_limits import allow_connections, connection_limits
from coordinator.runtime.process.event_loop import run_loop
from coordinator.runtime.process.garbage_collection import (
    collect_rarely,
    return_free_memory,
    return_large_blocks,
)
from coordinator.runtime.process.tls import Certificate
from coordinator.runtime.settings import Settings
from coordinator.wire.limits import MAX_BODY_BYTES

KEEP_ALIVE_SECONDS = 75
PING_SECONDS = 20.0  # between pings on a WebSocket, and for each answer before it is closed
STUCK_SECONDS = 120  # a connection whose peer accepts no data for so long is closed by the kernel
UNSENT_BYTES = 128 * 1024  # in the kernel; so we see soon whether a peer takes data, also on fast networks
RESTART_SECONDS = 3.0  # a process that only a restart helps ends after about twice so long
LOOPBACK = ("127.0.0.1", "::1")
STOP_SECONDS = 10  # for the requests under way at a stop


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


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
        # A live peer that reads nothing would otherwise keep its unread data in our memory for ever.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_SECONDS * 1000)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def certificate_of(settings: Settings) -> Certificate | None:
    """The certificate of the settings; None for plain HTTP. Raises BadSettings."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificate(settings.tls_cert_file, settings.tls_key_file)


class ServerConfig(uvicorn.Config):
    """uvicorn's settings, and all connections of the server."""

    connections: Connections


def configure(
    app: FastAPI, limits: ConnectionLimits | None = None, certificate: Certificate | None = None
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


async def _serve(
    coordinator: CoordinatorProcess,
    listener: socket.socket,
    on_ready: Callable[[CoordinatorProcess, int], None],
) -> None:
    limits = connection_limits(coordinator.settings)
    certificate = certificate_of(coordinator.settings)
    server = _Server(configure(edge_of(coordinator, limits), limits, certificate))

    def stop() -> None:
        coordinator.end_waits()
        server.should_exit = True

    # Taken when the server starts, as an address or network each: X-Forwarded-For of others does not count.
    server.config.forwarded_allow_ips = list(coordinator.settings.forwarded_allow_ips or LOOPBACK)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    async def end_if_useless() -> None:
        while coordinator.parts.restart is None:  # noqa: ASYNC110 - the log's threads find out
            await asyncio.sleep(RESTART_SECONDS)
        await asyncio.sleep(RESTART_SECONDS)  # `/health/live` tells why
        stop()

    watch = BackgroundTask("restart-watch")
    watch.start(end_if_useless)
    renewal = BackgroundTask("certificate")
    if certificate is not None:
        renewal.start(certificate.watch)
    server.on_started = lambda: on_ready(coordinator, listener.getsockname()[1])
    try:
        await server.serve(sockets=[listener])
    finally:
        await watch.stop()
        await renewal.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if coordinator.parts.restart is not None:
        raise LogUnavailable(coordinator.parts.restart)
