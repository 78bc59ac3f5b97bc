"""A private Redis server (or Valkey, equivalent here), started from this machine's programs.

It keeps nothing on disk: the counters there expire within minutes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from .node import STOP_TIMEOUT_S, LocalServer, Server, ServersMissing
from .processes import free_port

CONNECT_TIMEOUT_S = 5
PROGRAMS = ("redis-server", "valkey-server")

INSTALL_HINT = (
    "Redis is not installed here, and Docker does not answer. Run `make servers` (as root on Debian or "
    "Ubuntu it installs redis-server with apt), install Redis 6.2 or newer yourself, start Docker, or set "
    "TEST_REDIS_URL to a server that the tests may use."
)


class RedisServer(Server):
    """Any Redis server."""

    name = "redis"


class Redis(RedisServer, LocalServer):
    """A server of its own: own port, own password, nothing outside loopback.

    `settings` are further server settings, such as `{"maxmemory": "64mb"}`.
    """

    def __init__(self, directory: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self.settings = dict(settings or {})
        self.port = free_port()
        self._password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _launch(self) -> None:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._password,
            "dir": str(self.directory),
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            **self.settings,
        }
        # In a file, not in the arguments: everybody on the machine can read those.
        configuration = self.directory / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "TZ": "UTC"}
        server = self._spawn([str(find_program()), str(configuration)], environment)
        self._wait_ready(server, lambda: accepts_connections(self.url))

    def _shut_down(self) -> None:
        (server,) = self._processes
        server.send_signal(signal.SIGTERM)
        server.wait(STOP_TIMEOUT_S)


def accepts_connections(url: str) -> bool:
    """Whether the server answers a client with the password."""
    parts = urlsplit(url)
    login = f"AUTH {parts.password}\r\n" if parts.password else ""
    try:
        address = (parts.hostname or "127.0.0.1", parts.port or 6379)
        with socket.create_connection(address, CONNECT_TIMEOUT_S) as connection:
            connection.sendall(f"{login}PING\r\n".encode())
            answer = b""
            while (more := connection.recv(100)) and b"PONG" not in answer + more and b"-" not in more:
                answer += more
            return b"PONG" in answer + more
    except OSError:
        return False


def find_program() -> Path:
    """The path of the server's program. Raises ServersMissing."""
    for program in PROGRAMS:
        for place in (shutil.which(program), *_places(program)):
            if place and Path(place).exists():
                return Path(place)
    raise ServersMissing(INSTALL_HINT)


def _places(program: str) -> tuple[str, ...]:
    return (f"/opt/homebrew/bin/{program}", f"/usr/local/bin/{program}", f"/usr/bin/{program}")
