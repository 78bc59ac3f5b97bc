"""The common part of all private servers: one life cycle, and a certain end.

A private server belongs to the process that started it. It listens on loopback only, keeps its files in a
directory of its own, and ends with its owner: after `close()`, at the interpreter's exit, and even when the
owner is killed without a chance to clean up (see `processes.Watchdog`).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from .processes import Watchdog, family, send, wait_until_gone

READY_TIMEOUT_S = 120.0  # a single node boots in 5 to 9 s; several at once on two cores take a minute
STOP_TIMEOUT_S = 30.0
POLL_S = 0.02
LOG_TAIL_CHARS = 3_000

_open_servers: set[Server] = set()


class ServersMissing(RuntimeError):
    """No RabbitMQ, Postgres or Redis to start here: run `make servers`, or start Docker."""


class ServerFailed(RuntimeError):
    """A private server ended or was not ready in time; the message has the last lines of its log."""


class Server(ABC):
    """A server that can be started, stopped and broken on purpose.

    Every method may be called in every state: stop twice, stop without start, start while it runs.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for clients; the same before and after a restart."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether the server's processes are alive, even paused."""

    @abstractmethod
    def start(self) -> None:
        """Start and return when clients can connect.

        Raises ServersMissing or ServerFailed.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop in an orderly way; the data stays for the next start."""

    @abstractmethod
    def kill(self) -> None:
        """End the whole node at once, like a power cut; the data stays as it is on disk."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze the node: connections stay open, but it does not answer."""

    @abstractmethod
    def resume(self) -> None:
        """Let a paused node continue."""

    @abstractmethod
    def close(self) -> None:
        """Stop for good, and remove the data unless the caller gave its directory."""

    def restart(self) -> None:
        """Stop in an orderly way and start again, with the same URL and data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LocalServer(Server):
    """A node started from this machine's programs. Subclasses implement `_launch` and `_shut_down`."""

    def __init__(self, directory: Path | None = None) -> None:
        self._temporary = directory is None
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._watchdog: Watchdog | None = None
        self._lock = threading.RLock()
        self._owner_pid = os.getpid()

    @property
    def directory(self) -> Path:
        """The directory of all files of the node."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"coordinator-{self.name}-"))
            self._directory.chmod(0o711)  # a server under another account must pass through, but not list it
        return self._directory

    @property
    def running(self) -> bool:
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    @property
    def main_pid(self) -> int:
        """The id of the process that serves clients, even if it has just died. Raises IndexError."""
        return self._processes[-1].pid

    @property
    def pids(self) -> tuple[int, ...]:
        """The ids of all processes of the node, parents before children."""
        return family(process.pid for process in self._processes if process.poll() is None)

    def start(self) -> None:
        with self._lock:
            if self.running:
                return
            self.kill()  # a node that has lost one of its processes
            self.directory.mkdir(parents=True, exist_ok=True)
            self._watchdog = self._watchdog or Watchdog(self.directory if self._temporary else None)
            _open_servers.add(self)
            try:
                self._launch()
            except BaseException:
                self.kill()
                raise

    def stop(self) -> None:
        with self._lock:
            self.resume()  # a frozen process does not handle a signal to stop
            if self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._shut_down()
            self.kill()

    def kill(self) -> None:
        with self._lock:
            members = self.pids
            # Frozen first, so that none of them starts another process meanwhile.
            send(signal.SIGSTOP, members)
            members = tuple(dict.fromkeys(members + self.pids))
            send(signal.SIGKILL, members)
            for process in self._processes:
                process.wait()
            wait_until_gone(members)
            self._processes.clear()
            if self._watchdog is not None:
                self._watchdog.forget()

    def pause(self) -> None:
        send(signal.SIGSTOP, self.pids)

    def resume(self) -> None:
        send(signal.SIGCONT, self.pids)

    def close(self) -> None:
        if os.getpid() != self._owner_pid:
            return  # a forked copy of this object owns nothing
        with self._lock:
            if self._temporary:
                self.kill()
            else:
                self.stop()
            if self._watchdog is not None:
                self._watchdog.dismiss()
                self._watchdog = None
            if self._temporary and self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None
            _open_servers.discard(self)

    @abstractmethod
    def _launch(self) -> None:
        """Start the processes with `_spawn` and return when clients can connect."""

    @abstractmethod
    def _shut_down(self) -> None:
        """Ask the running node to stop and wait for it, at most STOP_TIMEOUT_S."""

    def _spawn(
        self, command: Sequence[str], environment: Mapping[str, str], *, account: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one process of the node, its output appended to `<directory>/output.log`."""
        assert self._watchdog is not None
        with (self.directory / "output.log").open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the owner, which then stops the node in order
                user=account,
                group=account,
                extra_groups=None if account is None else [],
            )
        self._processes.append(process)
        self._watchdog.watch(process.pid)
        return process

    def _wait_ready(self, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
        """Return when `ready()` is true. Raises ServerFailed if the process ends or takes too long."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL_S)
                raise ServerFailed(f"{self.name} ended with {code} while starting\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{self.name} was not ready after {READY_TIMEOUT_S:.0f} s\n{self.log_tail()}"
                )

    def log_tail(self) -> str:
        """The last lines of the node's output and logs, for error messages."""
        texts = [path.read_text(errors="replace") for path in sorted(self.directory.glob("**/*.log"))]
        return "\n".join(text[-LOG_TAIL_CHARS:] for text in texts)


@atexit.register
def _close_all() -> None:
    for server in tuple(_open_servers):
        server.close()
