"""The process `coordinator broker-auth`: answers RabbitMQ's questions about API keys, and writes nothing.

Several may run, also on one port of one machine (SO_REUSEPORT): when one ends, the others answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import structlog
import uvicorn

from coordinator.application.background import Component, LifeCycle
from coordinator.broker.auth.app import BrokerAuth
from coordinator.broker.auth.connections import BrokerConnections
from coordinator.broker.auth.principals import Principals
from coordinator.runtime.process.event_loop import run_loop
from coordinator.runtime.settings import BadSettings, Settings
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.tables.postgres import PostgresDatabase

MAX_CONNECTIONS = 512
"""RabbitMQ asks over a few connections for each node."""
STOP_SECONDS = 2

log = structlog.get_logger("broker.auth")


def run(settings: Settings, on_ready: Callable[[int], None] = lambda port: None) -> None:
    """Answer until SIGTERM or SIGINT. Raises OSError (the port is taken), LogUnavailable, BadSettings."""
    if settings.mode != "standard":
        raise BadSettings("DATABASE_URL and AMQP_URL: set both; without a broker there is nothing to answer")
    run_loop(_serve(settings, on_ready))


async def _serve(settings: Settings, on_ready: Callable[[int], None]) -> None:
    assert settings.database_url is not None
    assert settings.amqp_url is not None
    database_url = settings.database_url.get_secret_value()
    virtual_host = virtual_host_of(settings.amqp_url.get_secret_value())
    with contextlib.closing(_listen(settings.broker_auth_host, settings.broker_auth_port)) as listener:
        event_log, database = PostgresEventLog(database_url), PostgresDatabase(database_url)
        keyring = settings.new_keyring()
        principals = Principals(event_log, database, keyring)
        components: list[Component] = [principals]
        if settings.broker_management_url is not None:
            url = settings.broker_management_url.get_secret_value()
            components.append(BrokerConnections(url, virtual_host, keyring))
        life_cycle = LifeCycle(components)
        try:
            await life_cycle.start()
            await _answer(BrokerAuth(principals, keyring, virtual_host), listener, on_ready)
        finally:
            await life_cycle.stop()
            event_log.close()
            database.close()


def virtual_host_of(amqp_url: str) -> str:
    """The virtual host that this AMQP URL names."""
    return unquote(urlsplit(amqp_url).path.removeprefix("/")) or "/"


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    on_started: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_started()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


async def _answer(app: BrokerAuth, listener: socket.socket, on_ready: Callable[[int], None]) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # a GET's address holds a password
            server_header=False,
            lifespan="off",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    server.on_started = lambda: on_ready(listener.getsockname()[1])
    try:
        await server.serve(sockets=[listener])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
