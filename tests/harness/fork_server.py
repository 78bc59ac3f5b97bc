"""Python processes that start in milliseconds: forks of a process that has our modules imported.

A coordinator takes more than a second of a processor to import, and the tests start hundreds of processes.
`Forked` is a process of its own (session, environment, folder, files, exit code) that runs a module as
`python -m` does; only the imports are shared. A test of how the program itself starts uses `subprocess`.

The server is started with the first fork, and ends with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

PROGRAMS = ("coordinator", "tests.harness.coordinator_main", "tests.harness.miner_main")
"""The modules that it runs. Engines have native threads, which a fork would lose, and share little."""
IMPORTED = ("cli", "runtime", "edge", "broker", "storage", "miner")
"""The packages whose modules a process would import by itself; executors bring theirs."""
MAX_MESSAGE_BYTES = 128 * 1024


class Forked:
    """As much of `subprocess.Popen` as the tests use."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        output: IO[bytes] | None = None,
        errors: IO[bytes] | None = None,
    ) -> None:
        """Without `output` its stdout is a pipe, which `stdout` reads as text; `errors` is its stderr."""
        self.returncode: int | None = None
        request = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(folder),
        }
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            reading, writing = os.pipe()
            theirs.callback(os.close, reading)
            self.stdin = ours.enter_context(os.fdopen(writing, "wb", buffering=0))
            if output is None:
                reading_output, writing_output = os.pipe()
                theirs.callback(os.close, writing_output)
                self.stdout = ours.enter_context(os.fdopen(reading_output))
            else:
                writing_output = output.fileno()
            files = [reading, writing_output, writing_output if errors is None else errors.fileno()]
            self.pid: int = _server().ask(request, files)
            ours.pop_all()

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = _server().ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        if self.poll() is None:
            watched = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(watched, select.POLLIN)
                if not poll.poll(None if timeout is None else timeout * 1000):
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            finally:
                os.close(watched)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _ForkServer:
    """The server as its clients see it: one request at a time, each with one answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).resolve().parents[2],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the tests, which end what they started
            )

    def ask(self, request: Mapping[str, Any], files: Sequence[int] = ()) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            answer = self._socket.recv(MAX_MESSAGE_BYTES)
        if not answer:
            raise RuntimeError(f"the fork server ended with {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_started: _ForkServer | None = None
_starting = threading.Lock()


def _server() -> _ForkServer:
    global _started  # noqa: PLW0603 - one for all tests of this process
    with _starting:
        if _started is None:
            _started = _ForkServer()
            atexit.register(_started.close)
        return _started


# --- in the server's process -------------------------------------------------------------------------------
def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Answer until the tests are gone; then None. In a fork: its request, with its files in place."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, MAX_MESSAGE_BYTES, 3)
        if not message:
            return None
        request: dict[str, Any] = json.loads(message)
        if "ended" in request:
            answer = _ended(request["ended"])
        elif (answer := os.fork()) == 0:
            requests.close()
            os.setsid()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            return request
        for file in files:
            os.close(file)
        requests.send(json.dumps(answer).encode())


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _modules(package: str) -> Iterator[str]:
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        yield found.name
        if found.ispkg and not found.name.endswith(".executors"):
            yield from _modules(found.name)


def _reopen() -> None:
    """New objects for the three streams: those of the server know other files, and whether these can seek."""
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", errors=errors, closefd=False)
        for number, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
    )


def main(requests: socket.socket) -> None:
    import coordinator
    from coordinator.cli.main import command_tree
    from coordinator.edge.app import common_routes_by_path
    from coordinator.miner.executors import load_executors
    from coordinator.services.catalog import load_catalog

    for name in PROGRAMS[1:]:
        importlib.import_module(name)
    for package in IMPORTED:
        for module in _modules(f"{coordinator.__name__}.{package}"):
            importlib.import_module(module)
    load_executors()
    # All that a process makes once and keeps: most of a coordinator's start.
    command_tree()
    load_catalog()
    common_routes_by_path()
    gc.collect()
    gc.freeze()  # so that a fork's collector does not copy the pages of what all of them have
    assert 1 == len(os.listdir("/proc/self/task")), "a fork would not have the other threads"
    if (request := serve(requests)) is None:
        return
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = [request["module"], *request["arguments"]]
    _reopen()
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
