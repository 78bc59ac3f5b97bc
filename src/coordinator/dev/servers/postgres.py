"""A private Postgres server, started from this machine's programs.

`fsync` stays on: tests crash everything around this server, so it must keep its confirmed data.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from .node import STOP_TIMEOUT_S, LocalServer, Server, ServerFailed, ServersMissing
from .processes import free_port, processes_in, send, wait_until_gone

SUPERUSER = "coordinator"
MAX_CONNECTIONS = 200
CONNECT_TIMEOUT_S = 5
INITDB_TIMEOUT_S = 120

INSTALL_HINT = (
    "Postgres is not installed here, and Docker does not answer. Run `make servers` (as root on Debian or "
    "Ubuntu it installs postgresql with apt), install Postgres 15 or newer yourself, start Docker, or set "
    "TEST_DATABASE_URL to a server on which the tests may create databases."
)


class PostgresServer(Server):
    """Any Postgres server, and its databases."""

    name = "postgres"

    def new_database(self, template: str | None = None) -> str:
        """Make a database, empty or a copy of the one at the URL `template`, and return its URL.

        A template is one that `new_database` made and that nobody is connected to.
        """
        database = f"d{secrets.token_hex(6)}"
        make = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database))
        if template is not None:
            source = urlsplit(template).path.removeprefix("/")
            make += sql.SQL(" TEMPLATE {}").format(sql.Identifier(source))
        self._execute(make)
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))

    def drop_database(self, url: str) -> None:
        """Remove a database that `new_database` made; its connections are closed."""
        database = urlsplit(url).path.removeprefix("/")
        if re.fullmatch(r"d[0-9a-f]{12}", database) is None:
            raise ValueError(f"not a database of new_database(): {database!r}")
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            connection.execute(statement)


class Postgres(PostgresServer, LocalServer):
    """A server of its own: own port, own password, own data, no unix socket, nothing outside loopback.

    `settings` are further server settings, such as `{"log_statement": "all"}`.
    """

    def __init__(self, directory: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory)
        self.settings = dict(settings or {})
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"postgresql://{SUPERUSER}:{self._password()}@127.0.0.1:{self.port}/postgres"

    def kill(self) -> None:
        with self._lock:
            was_ours = bool(self._processes)
            super().kill()
            if was_ours:
                # If the main process died by itself, sessions continue until their statement ends, and no new
                # server starts before. The working directory of all server processes is the data directory.
                orphans = processes_in(self.directory.resolve() / "data")
                send(signal.SIGKILL, orphans)
                wait_until_gone(orphans)

    def close(self) -> None:
        if self._temporary and os.getpid() == self._owner_pid:
            with self._lock:
                self._abandon()
        super().close()

    def _abandon(self) -> None:
        """End as quickly as by a kill, but release the System V segment, which would stay for ever."""
        if self.running:
            self.resume()
            (server,) = self._processes
            server.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(STOP_TIMEOUT_S)

    def _launch(self) -> None:
        programs = find_programs()
        data = self.directory / "data"
        if not (data / "PG_VERSION").exists():
            self._initialise(programs, data)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            # In the data directory, which is removed. In /dev/shm, the default, a killed server leaves a
            # megabyte for ever, and a container has 64.
            "dynamic_shared_memory_type": "mmap",
            **self.settings,
        }
        command = [str(programs / "postgres"), "-D", str(data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        server = self._spawn(command, _environment(data), account=server_account())
        self._wait_ready(server, lambda: accepts_connections(self.url))

    def _shut_down(self) -> None:
        (server,) = self._processes
        server.send_signal(signal.SIGINT)  # "fast": ends sessions, rolls open transactions back
        server.wait(STOP_TIMEOUT_S)

    def _initialise(self, programs: Path, data: Path) -> None:
        shutil.rmtree(data, ignore_errors=True)  # from an interrupted initdb
        self._password()
        data.mkdir(mode=0o700)
        account = server_account()
        if account is not None:
            shutil.chown(data, account, account)
            shutil.chown(self._password_file, account, account)
        command = [str(programs / "initdb"), "-D", str(data), "--username", SUPERUSER, "--auth=scram-sha-256"]
        command += [f"--pwfile={self._password_file}", "--encoding=UTF8", "--locale=C"]
        # There is no data yet that a power cut could destroy.
        command.append("--no-sync")
        done = subprocess.run(
            command,
            check=False,  # reported below, with its output
            env=_environment(data),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INITDB_TIMEOUT_S,
            user=account,
            group=account,
            extra_groups=None if account is None else [],
        )
        if done.returncode != 0:
            output = done.stdout.decode(errors="replace")
            raise ServerFailed(
                f"initdb (as {account or 'this account'}) ended with {done.returncode}: {output}"
            )

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _password(self) -> str:
        """A random password, kept with the data: loopback is open to everybody on the machine."""
        if not self._password_file.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            self._password_file.touch(mode=0o600)
            self._password_file.write_text(secrets.token_hex(16))
        return self._password_file.read_text()


def accepts_connections(url: str) -> bool:
    """Whether a client can open a session."""
    try:
        psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S).close()
    except psycopg.OperationalError:
        return False
    return True


def server_account() -> str | None:
    """The account of the server; None for our own. Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def find_programs() -> Path:
    """The directory with initdb and postgres, of the newest version found. Raises ServersMissing."""
    for place in _places():
        if all((place / program).exists() for program in ("initdb", "postgres")):
            return place
    raise ServersMissing(INSTALL_HINT)


def _places() -> Iterable[Path]:
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent
    patterns = (
        "usr/lib/postgresql/*/bin",  # Debian keeps these off PATH
        "usr/pgsql-*/bin",
        "opt/homebrew/opt/postgresql@*/bin",
        "usr/local/opt/postgresql@*/bin",
    )
    for pattern in patterns:
        yield from sorted(Path("/").glob(pattern), key=_version, reverse=True)
    yield Path("/usr/bin")
    yield Path("/usr/local/pgsql/bin")


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(path)))


def _environment(data: Path) -> dict[str, str]:
    """The server's whole environment, without the caller's PG* variables."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": str(data), "TZ": "UTC"}
