"""Private RabbitMQ, Postgres and Redis servers for tests, benchmarks and the demo.

    with private_rabbitmq() as broker, private_postgres() as database:
        run(broker.new_vhost(), database.new_database())

Each is started from this machine's programs; if those are missing, in a container. Without Docker,
`ServersMissing` says what to install.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from . import postgres, rabbitmq, redis
from .docker import DockerPostgres, DockerRabbitMQ, DockerRedis, docker_answers
from .external import ExternalPostgres, ExternalRabbitMQ, ExternalRedis
from .node import Server, ServerFailed, ServersMissing
from .postgres import Postgres, PostgresServer
from .prometheus import Prometheus, PrometheusRefused
from .rabbitmq import AUTH_PLUGINS, DEFAULT_PLUGINS, RabbitMQ, RabbitMQServer, auth_settings
from .redis import Redis, RedisServer

__all__ = [
    "AUTH_PLUGINS",
    "DockerPostgres",
    "DockerRabbitMQ",
    "DockerRedis",
    "ExternalPostgres",
    "ExternalRabbitMQ",
    "ExternalRedis",
    "Postgres",
    "PostgresServer",
    "Prometheus",
    "PrometheusRefused",
    "RabbitMQ",
    "RabbitMQServer",
    "Redis",
    "RedisServer",
    "Server",
    "ServerFailed",
    "ServersMissing",
    "auth_settings",
    "private_postgres",
    "private_rabbitmq",
    "private_redis",
]


def private_rabbitmq(
    directory: Path | None = None,
    *,
    plugins: Sequence[str] = DEFAULT_PLUGINS,
    settings: Mapping[str, str] | None = None,
) -> RabbitMQServer:
    """A broker for the caller alone, not started yet.

    `directory` keeps the data beyond `close()`; a container cannot offer that and ignores it.
    Raises ServersMissing.
    """
    try:
        rabbitmq.find_programs()
    except ServersMissing:
        if not docker_answers():
            raise
        return DockerRabbitMQ(plugins=plugins, settings=settings)
    return RabbitMQ(directory, plugins=plugins, settings=settings)


def private_postgres(
    directory: Path | None = None, *, settings: Mapping[str, str] | None = None
) -> PostgresServer:
    """A database server for the caller alone, not started yet.

    `directory` keeps the data beyond `close()`; a container cannot offer that and ignores it.
    Raises ServersMissing.
    """
    try:
        postgres.find_programs()
    except ServersMissing:
        if not docker_answers():
            raise
        return DockerPostgres(settings=settings)
    return Postgres(directory, settings=settings)


def private_redis(directory: Path | None = None, *, settings: Mapping[str, str] | None = None) -> RedisServer:
    """A Redis server for the caller alone, not started yet. It keeps no data. Raises ServersMissing."""
    try:
        redis.find_program()
    except ServersMissing:
        if not docker_answers():
            raise
        return DockerRedis(settings=settings)
    return Redis(directory, settings=settings)
