"""The same servers in containers, for machines with Docker but without the programs.

Testcontainers belongs to the `test` extra. Without it, or without a Docker daemon on this machine, there are
no containers.
"""

from __future__ import annotations

import secrets
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from . import postgres, rabbitmq, redis
from .node import POLL_S, READY_TIMEOUT_S, Server, ServerFailed
from .postgres import SUPERUSER, PostgresServer
from .processes import free_port
from .rabbitmq import DEFAULT_PLUGINS, RabbitMQServer
from .redis import RedisServer

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

RABBITMQ_IMAGE = "rabbitmq:4.0"
POSTGRES_IMAGE = "postgres:17"
REDIS_IMAGE = "redis:7"
LOG_TAIL_LINES = 50


def docker_answers() -> bool:
    """Whether testcontainers is installed and a Docker daemon answers it."""
    try:
        from testcontainers.core.docker_client import DockerClient

        DockerClient().client.ping()
    except Exception:
        # A missing library or socket, missing permission, a daemon that is starting: each has its own
        # exception, from three libraries, and all mean the same here.
        return False
    return True


class RunningContainer(Protocol):
    """The methods that we use of docker.models.containers.Container, which is not typed."""

    status: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self) -> object: ...
    def pause(self) -> None: ...
    def unpause(self) -> None: ...
    def reload(self) -> None: ...
    def logs(self, *, tail: int) -> bytes: ...
    def exec_run(self, cmd: list[str]) -> tuple[int, bytes]: ...


class _DockerServer(Server):
    """A container with one port, published on 127.0.0.1 at a port that stays the same over restarts."""

    def __init__(self, image: str, inner_port: int) -> None:
        self._image = image
        self._inner_port = inner_port
        self.port = free_port()
        self._made: DockerContainer | None = None

    @property
    def running(self) -> bool:
        if self._made is None:
            return False
        container = self._container()
        container.reload()
        return container.status in ("running", "paused")

    def start(self) -> None:
        if self.running:
            return
        if self._made is None:
            from testcontainers.core.container import DockerContainer

            made = DockerContainer(self._image)
            # With the loopback address: the library's own method would listen on all interfaces.
            made.ports[f"{self._inner_port}/tcp"] = ("127.0.0.1", self.port)  # type: ignore[assignment]
            self._configure(made)
            made.start()
            self._made = made
        else:
            self._container().start()
        self._wait_ready(self._accepts_connections)

    def stop(self) -> None:
        if self.running:
            self.resume()
            self._container().stop()

    def kill(self) -> None:
        if self.running:
            self._container().kill()
            self._container().wait()

    def pause(self) -> None:
        if self.running:
            self._container().pause()

    def resume(self) -> None:
        if self.running and self._container().status == "paused":
            self._container().unpause()

    def close(self) -> None:
        if self._made is not None:
            self._made.stop()
            self._made = None

    def _container(self) -> RunningContainer:
        assert self._made is not None
        container: RunningContainer = self._made.get_wrapped_container()
        return container

    def _wait_ready(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            if not self.running or time.monotonic() > deadline:
                tail = self._container().logs(tail=LOG_TAIL_LINES).decode(errors="replace")
                raise ServerFailed(f"the {self.name} container did not become ready\n{tail}")
            time.sleep(POLL_S)  # Docker does not notify when a port inside a container opens

    @abstractmethod
    def _configure(self, made: DockerContainer) -> None:
        """Add environment and files."""

    @abstractmethod
    def _accepts_connections(self) -> bool:
        """Whether clients can connect now."""


class DockerRabbitMQ(_DockerServer, RabbitMQServer):
    """RabbitMQ in a container."""

    def __init__(
        self, *, plugins: Sequence[str] = DEFAULT_PLUGINS, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(RABBITMQ_IMAGE, 5672)
        self.plugins = tuple(plugins)
        self.settings = dict(settings or {})

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def evaluate(self, expression: str) -> str:
        code, output = self._container().exec_run(["rabbitmqctl", "eval", f"{expression}."])
        answer = output.decode(errors="replace").strip()
        if code != 0:
            raise ServerFailed(f"rabbitmq could not evaluate {expression!r}: {answer}")
        return answer

    def leave(self) -> None:
        self.stop()

    def come_back(self) -> None:
        self.start()

    def _configure(self, made: DockerContainer) -> None:
        lines = [f"{key} = {value}\n" for key, value in self.settings.items()]
        made.with_copy_into_container("".join(lines).encode(), "/etc/rabbitmq/conf.d/90-coordinator.conf")
        enabled = f"[{','.join(self.plugins)}].\n"
        made.with_copy_into_container(enabled.encode(), "/etc/rabbitmq/enabled_plugins")

    def _accepts_connections(self) -> bool:
        return rabbitmq.accepts_connections(self.port)


class DockerPostgres(_DockerServer, PostgresServer):
    """Postgres in a container."""

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(POSTGRES_IMAGE, 5432)
        self.settings = {"max_connections": str(postgres.MAX_CONNECTIONS), **(settings or {})}
        self._password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{self.port}/postgres"

    def _configure(self, made: DockerContainer) -> None:
        made.with_env("POSTGRES_USER", SUPERUSER)
        made.with_env("POSTGRES_PASSWORD", self._password)
        command = ["postgres"]
        for key, value in self.settings.items():
            command += ["-c", f"{key}={value}"]
        made.with_command(command)

    def _accepts_connections(self) -> bool:
        return postgres.accepts_connections(self.url)


class DockerRedis(_DockerServer, RedisServer):
    """Redis in a container."""

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(REDIS_IMAGE, 6379)
        self._password = secrets.token_hex(16)
        self.settings = {"requirepass": self._password, "save": "", **(settings or {})}

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _configure(self, made: DockerContainer) -> None:
        command = ["redis-server"]
        for key, value in self.settings.items():
            command += [f"--{key}", value]
        made.with_command(command)

    def _accepts_connections(self) -> bool:
        return redis.accepts_connections(self.url)
