"""Child processes that always end: we stop them, and if we are killed, they stop by themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from coordinator.dev.servers.processes import family, send, wait_until_gone
from coordinator.runtime import parent_watch

GRACE_S: Final = 12.0
"""Time for a child to stop in order; then it is killed."""
TAIL_LINES: Final = 15


def bare_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these coordinator settings and no others."""
    from coordinator.runtime.settings import Settings

    ours = {name.upper() for name in Settings.model_fields}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in ours and not name.startswith("COORDINATOR_")
    }
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


class Child:
    """One `coordinator …` process in a process group of its own, with its output in a file."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        place: Path | None = None,
    ) -> None:
        """The working directory is `place`, by default `folder`, which has no `.env`."""
        self.name = name
        self.log = folder / f"{name}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.log, flags, 0o600), "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "coordinator", *arguments],
                # Stays open while we live: its end tells the child that we are gone (see parent_watch.py).
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, parent_watch.VARIABLE: "1"},
                cwd=place or folder,
                start_new_session=True,  # Ctrl-C is for us; we then stop the child
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Begin to stop it; `stop` waits for the end."""
        send(signal.SIGTERM, [self.pid] if self.ended is None else [])

    def stop(self) -> int:
        """Stop it, in order if it can, and return its exit code. May be called twice."""
        self.ask_to_stop()
        try:
            return self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            # Together with its own children: programs that run jobs are in groups of their own.
            members = family([self.pid])
            send(signal.SIGKILL, members)
            wait_until_gone(members)
            return self._process.wait()
        finally:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def tail(self, lines: int = TAIL_LINES) -> list[str]:
        """The last lines of its output."""
        try:
            with self.log.open(errors="replace") as file:
                return [line.rstrip("\n") for line in deque(file, lines)]
        except OSError:
            return []


class Children:
    """Several child processes, stopped together in the reverse order of their start."""

    def __init__(self, environment: Mapping[str, str], folder: Path, place: Path | None = None) -> None:
        """Their output is in `folder`; `place` is their working directory, by default `folder`."""
        self._environment = dict(environment)
        self._folder = folder
        self._place = place
        self.all: list[Child] = []

    def start(self, name: str, *arguments: str, **settings: str) -> Child:
        child = Child(name, arguments, {**self._environment, **settings}, self._folder, self._place)
        self.all.append(child)
        return child

    def first_ended(self) -> Child | None:
        """A child that ended by itself; None while all run."""
        return next((child for child in self.all if child.ended is not None), None)

    def stop(self) -> None:
        for child in reversed(self.all):
            child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
