"""Real processes under test: started with settings of their own, and always ended with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from coordinator.dev.demo.processes import bare_environment
from coordinator.dev.servers.processes import family, send, wait_until_gone
from coordinator.runtime.process import parent_watch
from tests.harness.fork_server import PROGRAMS, Forked

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 30.0
TAIL_CHARACTERS = 6000


class Process:
    """One Python process (`-m module …`) in a process group of its own, with its output in a file."""

    def __init__(self, name: str, folder: Path, module: str, *arguments: str, **settings: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = bare_environment(
            {"PYTHONPATH": os.pathsep.join(paths), parent_watch.VARIABLE: "1", **settings}
        )
        self._process: Forked | subprocess.Popen[bytes]
        with self.log.open("ab") as output:
            if module in PROGRAMS:
                self._process = Forked(
                    module, arguments, environment=environment, folder=folder, output=output
                )
            else:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=folder,
                    start_new_session=True,
                )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """As a power cut would, with all that it started."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        send(signal.SIGSTOP, [self.pid])

    def thaw(self) -> None:
        send(signal.SIGCONT, [self.pid])

    def ask_to_stop(self) -> None:
        send(signal.SIGTERM, [self.pid] if self.ended is None else [])

    def stop(self) -> int:
        """In order if it can; its exit code."""
        self.thaw()
        self.ask_to_stop()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._end(signal.SIGKILL)
        self._close()
        code = self.ended
        assert code is not None
        return code

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended by itself."""
        return self._process.wait(seconds)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-TAIL_CHARACTERS:]

    def _end(self, number: signal.Signals) -> None:
        members = family([self.pid]) if self.ended is None else ()
        send(number, members)
        send(signal.SIGCONT, members)
        wait_until_gone(members)
        self._process.wait()
        self._close()

    def _close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


def as_settings(values: Mapping[str, object]) -> dict[str, str]:
    """Environment variables from keyword arguments."""
    return {name.upper(): str(value) for name, value in values.items()}
