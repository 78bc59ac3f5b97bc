"""One broker, one database server and one Redis for all workers of a run.

They belong to the process that started the workers. The first worker that needs one has it started, and all
end with the run. Workers ask over a socket (`multiprocessing.managers`).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from multiprocessing.managers import BaseManager
from typing import Any, Final, cast

from coordinator.dev import servers
from coordinator.dev.servers import (
    ExternalPostgres,
    ExternalRabbitMQ,
    ExternalRedis,
    PostgresServer,
    RabbitMQServer,
    Server,
)


def postgres() -> PostgresServer:
    """One that keeps nothing through a power cut, which no test makes of it.

    A database for each of hundreds of tests is made, filled and dropped: with fsync in four times the time.
    """
    return servers.private_postgres(settings={"fsync": "off"})


MAKE: Final[dict[str, Callable[[], Server]]] = {
    "rabbitmq": servers.private_rabbitmq,
    "postgres": postgres,
    "redis": servers.private_redis,
}


class SharedServers:
    """What the workers may ask for; in the process that has the servers."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._locks = {name: threading.Lock() for name in MAKE}

    def started(self, name: str) -> str:
        """Start this server unless it runs; its url. Raises ServersMissing."""
        with self._locks[name]:
            server = self._servers.get(name) or MAKE[name]()
            self._servers[name] = server
            server.start()
            return server.url

    def evaluate(self, expression: str) -> str:
        broker = self._servers["rabbitmq"]
        assert isinstance(broker, RabbitMQServer)
        return broker.evaluate(expression)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()


class _Manager(BaseManager):
    servers: Callable[[], Any]
    """Made by `register`."""


class Host:
    """In the process that starts the workers: serves them until `close()`."""

    def __init__(self) -> None:
        self._servers = SharedServers()
        _Manager.register("servers", callable=lambda: self._servers)
        self.key = secrets.token_hex(16)
        server = _Manager(("127.0.0.1", 0), self.key.encode()).get_server()
        _, self.port = cast(tuple[str, int], server.address)
        # A daemon: it serves until this process ends.
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._servers.close()


class Guest:
    """In a worker: how to ask the host."""

    def __init__(self, port: int, key: str) -> None:
        _Manager.register("servers")
        manager = _Manager(("127.0.0.1", port), key.encode())
        manager.connect()
        host: SharedServers = manager.servers()
        self.started = host.started
        self.evaluate = host.evaluate


class SharedRabbitMQ(ExternalRabbitMQ):
    """In a worker: the broker of the host, which no test may break."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest.started("rabbitmq"))
        self._guest = guest

    def start(self) -> None:
        self._guest.started("rabbitmq")

    def evaluate(self, expression: str) -> str:
        return self._guest.evaluate(expression)

    # Its virtual hosts are made as those of a broker of our own.
    new_vhost = RabbitMQServer.new_vhost
    drop_vhost = RabbitMQServer.drop_vhost
    settle = RabbitMQServer.settle


class SharedPostgres(ExternalPostgres):
    """In a worker: the database server of the host, which no test may break."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest.started("postgres"))
        self._guest = guest

    def start(self) -> None:
        self._guest.started("postgres")


class SharedRedis(ExternalRedis):
    """In a worker: the Redis of the host, which no test may break."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest.started("redis"))
