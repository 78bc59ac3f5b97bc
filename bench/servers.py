"""The servers of all systems: one private RabbitMQ, one Postgres and one Redis. All write to disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg

from coordinator.dev.servers import Postgres, RabbitMQ, Redis, postgres, rabbitmq
from coordinator.dev.servers.redis import find_program

# Redis' own documentation recommends for important data: the append-only file, synced every second.
REDIS_SETTINGS = {"appendonly": "yes", "appendfsync": "everysec"}
POSTGRES_SETTINGS = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


@dataclass(frozen=True)
class Endpoints:
    """An empty virtual host, an empty database, and the Redis server, for one system at a time."""

    amqp_url: str
    database_url: str
    redis_url: str


class Servers:
    """All three servers, running as processes of this machine, so that their cost can be measured."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        self._rabbitmq = enter(RabbitMQ())
        self._postgres = enter(Postgres(settings=POSTGRES_SETTINGS))
        self._redis = enter(Redis(settings=REDIS_SETTINGS))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def trees(self) -> dict[str, int]:
        """The root process of each server."""
        return {
            "rabbitmq": self._rabbitmq.main_pid,
            "postgres": self._postgres.main_pid,
            "redis": self._redis.main_pid,
        }

    @contextmanager
    def endpoints(self, database_url: str | None = None) -> Iterator[Endpoints]:
        """Fresh endpoints, removed afterwards, except a given `database_url`."""
        amqp_url = self._rabbitmq.new_vhost()
        made = None if database_url else self._postgres.new_database()
        try:
            yield Endpoints(amqp_url, database_url or made or "", self._redis.url)
        finally:
            self._rabbitmq.drop_vhost(amqp_url)
            if made:
                self._postgres.drop_database(made)

    def new_database(self) -> str:
        return self._postgres.new_database()

    def settle(self) -> None:
        """Let Postgres write its memory to disk, so that no system pays for the previous one."""
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def versions(self) -> dict[str, str]:
        with psycopg.connect(self._postgres.url) as connection:
            version = connection.info.parameter_status("server_version") or ""
        about = subprocess.run([find_program(), "--version"], capture_output=True, text=True, check=True)
        words = dict(word.split("=", 1) for word in about.stdout.split() if "=" in word)
        broker = self._rabbitmq.evaluate("rabbit_misc:version()").strip('"')
        return {"rabbitmq": broker, "postgres": version.split()[0], "redis": words.get("v", "")}


def missing() -> list[str]:
    """The servers that are not installed here. Containers do not do: /proc must show their processes."""
    lacking = []
    for name, find in (
        ("RabbitMQ", rabbitmq.find_programs),
        ("Postgres", postgres.find_programs),
        ("Redis", find_program),
    ):
        try:
            found: Path = find()
            assert found
        except RuntimeError:
            lacking.append(name)
    return lacking
