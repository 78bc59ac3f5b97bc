"""Servers given by URL, which somebody else runs."""

from __future__ import annotations

from .node import Server, ServerFailed
from .postgres import PostgresServer
from .rabbitmq import RabbitMQServer
from .redis import RedisServer


class _External(Server):
    """It runs before and after us; nobody here may stop it."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    @property
    def running(self) -> bool:
        return True

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass

    def kill(self) -> None:
        raise ServerFailed(f"{self.name} at a given URL can't be killed from here: use a private one")

    def pause(self) -> None:
        raise ServerFailed(f"{self.name} at a given URL can't be paused from here: use a private one")

    def resume(self) -> None:
        pass


class ExternalRabbitMQ(_External, RabbitMQServer):
    """A broker at a given URL.

    AMQP can't make a virtual host, so everybody gets the one in the URL: a test finds the queues and messages
    of the tests before. Give a fresh virtual host per run, and run tests one at a time.
    """

    def new_vhost(self) -> str:
        return self.url

    def drop_vhost(self, url: str) -> None:
        pass

    def settle(self) -> None:
        pass

    def leave(self) -> None:
        raise ServerFailed("rabbitmq at a given URL can't be stopped from here: use a private one")

    def come_back(self) -> None:
        pass

    def evaluate(self, expression: str) -> str:
        raise ServerFailed(f"can't evaluate {expression!r} in a broker at a given URL: use a private one")


class ExternalPostgres(_External, PostgresServer):
    """A Postgres server at a given URL, whose account may create databases."""


class ExternalRedis(_External, RedisServer):
    """A Redis server at a given URL; the keys that we leave there expire."""
