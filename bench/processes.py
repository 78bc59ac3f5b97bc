"""Processes of a benchmark: always ended; errors show the end of their output."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coordinator.dev.servers.processes import Watchdog, family, send, wait_until_gone

ANSWER_SECONDS = 300.0
STOP_SECONDS = 2.0  # short, as later output is not needed
TAIL_CHARS = 2000


class Failed(Exception):
    """A process ended, did not answer, or answered with an error."""


class Process:
    """A process in a group of its own, its output in a file in `folder`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        *,
        answers: bool = False,
    ) -> None:
        """`answers`: we read its standard output; it does not go to the file."""
        self.name = name
        self._log = folder / f"{name}.log"
        self._watchdog = Watchdog(None)  # ends it if we are killed
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if answers else log,
                stderr=log,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )
        self._watchdog.watch(self.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def stop(self) -> None:
        """Stop it in order within STOP_SECONDS; after that it and its children are killed."""
        members = family([self.pid]) if self._popen.poll() is None else ()
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        try:
            if self._popen.poll() is None:
                self._popen.send_signal(signal.SIGTERM)
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            members = tuple(dict.fromkeys((*members, *family([self.pid]))))
        send(signal.SIGKILL, members)
        self._popen.wait()
        wait_until_gone(members)
        self._watchdog.dismiss()

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-TAIL_CHARS:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ClientProcess(Process):
    """bench/client.py with one system's module."""

    def __init__(self, python: Path, module: Path, environment: Mapping[str, str], folder: Path) -> None:
        program = Path(__file__).with_name("client.py")
        command = [str(python), str(program), str(module)]
        super().__init__("client", command, environment, folder, answers=True)
        self._answer()

    def burst(self, jobs: int) -> dict[str, Any]:
        return self._ask({"do": "burst", "jobs": jobs})

    def steady(self, jobs: int, rate: int) -> dict[str, Any]:
        return self._ask({"do": "steady", "jobs": jobs, "rate": rate})

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(order).encode() + b"\n")
        self._popen.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._popen.stdout is not None
        ready, _, _ = select.select([self._popen.stdout], [], [], ANSWER_SECONDS)
        line = self._popen.stdout.readline() if ready else b""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "no answer"}
        if "error" in answer:
            raise Failed(f"client: {answer['error']}\n{self.tail()}")
        return answer


def environment(**settings: str) -> dict[str, str]:
    """The environment of a process: the variables that it needs to start, and these settings."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}
