"""The command line as a user meets it: a process, its exit code, and what it prints where."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import pytest
import structlog

from coordinator.cli import main
from coordinator.runtime.process import parent_watch
from coordinator.runtime.settings import Settings
from tests.harness.fork_server import Forked

PROGRAM = (sys.executable, "-m", "coordinator")
TIMEOUT_S = 90


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**variables: str) -> dict[str, str]:
    """Ours without any setting of the coordinator, and with these variables."""
    names = {name.upper() for name in Settings.model_fields}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in names and not name.startswith("COORDINATOR_")
    }
    return {**kept, **variables}


def run(folder: Path, *arguments: str, text: str = "", **variables: str) -> Ran:
    """Run one command in `folder` to its end, in a process of its own."""
    with TemporaryFile() as out, TemporaryFile() as err:
        process = Forked(
            "coordinator",
            arguments,
            environment=environment(**variables),
            folder=folder,
            output=out,
            errors=err,
        )
        try:
            with process.stdin as stdin:
                stdin.write(text.encode())
            code = process.wait(TIMEOUT_S)
        finally:
            process.kill()
        return Ran(code, *(_whole(file) for file in (out, err)))


def _whole(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@contextmanager
def own_logs() -> Iterator[None]:
    """Whatever is set up for logs inside ends here: a logger that keeps it would keep it for other tests."""
    before, configure = structlog.get_config(), structlog.configure

    def without_cache(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", without_cache)
        try:
            yield
        finally:
            configure(**before)


def call(folder: Path, *arguments: str, text: str = "", **variables: str) -> Ran:
    """The same as `run`, in this process: faster, and blind to what only a process can show."""
    out, err = io.StringIO(), io.StringIO()
    with own_logs(), pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        kept = environment(**variables)
        for name in os.environ.keys() - kept.keys():
            patch.delenv(name)
        for name, value in kept.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.StringIO(text))
        code = main(arguments)
    return Ran(int(code), out.getvalue(), err.getvalue())


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Iterator[Forked]:
    """A command that runs beside the test; ended by SIGKILL if the test does not, or is no more itself."""
    with (folder / "stderr.log").open("ab") as log:
        process = Forked(
            "coordinator",
            arguments,
            environment=environment(**variables, **{parent_watch.VARIABLE: "1"}),
            folder=folder,
            errors=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


class Coordinator(NamedTuple):
    """A running `coordinator dev`, and how to run commands against it."""

    folder: Path
    process: Forked
    about: Mapping[str, Any]

    @property
    def url(self) -> str:
        return str(self.about["url"])

    def run(self, *arguments: str, **variables: str) -> Ran:
        """A command in the coordinator's folder, which finds url and keys as a user's would."""
        return call(self.folder, *arguments, COORDINATOR_URL=self.url, **variables)

    def submit(self, text: str, *more: str) -> str:
        """The id of a new checksum job."""
        ran = self.run("job", "submit", "checksum", "--payload", json.dumps({"text": text}), "--json", *more)
        assert ran.code == 0, ran.err
        return str(ran.json()["job_id"])


@contextmanager
def dev(folder: Path, *arguments: str, **variables: str) -> Iterator[Coordinator]:
    """`coordinator dev` on a free port; ready when this returns."""
    with running(folder, "dev", "--port", "0", "--json", *arguments, **variables) as process:
        said = process.stdout.readline()  # the one line comes when requests are answered
        assert said, (folder / "stderr.log").read_text()
        yield Coordinator(folder, process, json.loads(said))
