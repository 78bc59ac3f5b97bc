"""Servers that somebody else runs, given by url."""

from __future__ import annotations

from .node import Server, ServerFailed
from .postgres import PostgresServer
from .rabbitmq import RabbitMQServer
from .redis import RedisServer


class _External(Server):
    """It runs when we come and when we go; nobody here may stop it."""

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
        raise ServerFailed(f"the {self.name} at a given url is not ours to kill: use a private one")

    def pause(self) -> None:
        raise ServerFailed(f"the {self.name} at a given url is not ours to pause: use a private one")

    def resume(self) -> None:
        pass


class ExternalRabbitMQ(_External, RabbitMQServer):
    """A broker at a given url.

    AMQP has no way to make a virtual host, so everybody gets the one in the url: whatever one test leaves in
    it (queues, messages) the next one finds. Give a fresh virtual host per run, and run tests one at a time.
    """

    def new_vhost(self) -> str:
        return self.url

    def drop_vhost(self, url: str) -> None:
        pass

    def settle(self) -> None:
        pass

    def leave(self) -> None:
        raise ServerFailed("the rabbitmq at a given url is not ours to stop: use a private one")

    def come_back(self) -> None:
        pass

    def evaluate(self, expression: str) -> str:
        raise ServerFailed(f"no way to evaluate {expression!r} in a broker that we know by its url only")


class ExternalPostgres(_External, PostgresServer):
    """A Postgres server at a given url, whose account may create databases."""


class ExternalRedis(_External, RedisServer):
    """A Redis server at a given url; the keys that we leave there end by themselves."""
