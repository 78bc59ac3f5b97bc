"""The compose project of one test run: a copy of the container files, with secrets and ports of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from coordinator.client import Coordinator
from coordinator.dev.servers.processes import free_port

from .engine import Engine

ROOT: Final = Path(__file__).parents[2]
COPIED: Final = (
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
    ".dockerignore",
    "src",
    "docker",
)
PROJECT: Final = "coordinator-docker-test"
FIVE: Final = ("rabbitmq", "postgres", "coordinator", "miner-1", "miner-2")
OURS: Final = ("coordinator", "miner-1", "miner-2")


class Stack:
    """Five containers, and the files that they are made from. `settings` go into its `.env`."""

    def __init__(self, engine: Engine, folder: Path, **settings: str) -> None:
        self.engine = engine
        self.folder = folder / "docker"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ignored = shutil.ignore_patterns("__pycache__", ".env", "tls")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, folder / name)
        self.port = free_port()
        self.files: tuple[str, ...] = ("compose.yaml",)
        self.profiles: tuple[str, ...] = ()
        self.made = False
        self._settings = {"APP_PORT": str(self.port), **settings}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, address: str = "http://127.0.0.1") -> Coordinator:
        """A client with the key that make-secrets.sh made."""
        return Coordinator(f"{address}:{self.port}", f"app:{self.setting('CLIENT_SECRET')}")

    def make_secrets(self) -> None:
        """`.env` as the README makes it, with our settings behind it."""
        subprocess.run(("sh", "make-secrets.sh"), cwd=self.folder, check=True, capture_output=True)
        self.set(**self._settings)

    def set(self, **settings: str) -> None:
        """Add settings to `.env`; a later line goes first."""
        lines = "".join(f"{name}={value}\n" for name, value in settings.items())
        with (self.folder / ".env").open("a") as file:
            file.write(lines)

    def setting(self, name: str) -> str:
        """A value in `.env`."""
        lines = (self.folder / ".env").read_text().splitlines()
        return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")][-1]

    def compose(
        self, *arguments: str, project: str = PROJECT, seconds: float = 900, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`docker compose` with our files, profiles and project."""
        files = [part for file in self.files for part in ("--file", file)]
        profiles = [part for profile in self.profiles for part in ("--profile", profile)]
        command = ("compose", "--project-name", project, *files, *profiles, *arguments)
        return self.engine.run(*command, folder=self.folder, seconds=seconds, check=check)

    def build(self) -> None:
        """Both images, on this machine's network: the engine's own may have no way to a package index."""
        for service, target in (("coordinator", "coordinator:local"), ("miner-1", "coordinator-miner:local")):
            stage = "miner" if service == "miner-1" else service
            context = str(self.folder.parent)
            file = str(self.folder / "Dockerfile")
            command = (
                "build",
                "--network",
                "host",
                "--file",
                file,
                "--target",
                stage,
                "--tag",
                target,
                context,
            )
            self.engine.run(*command, seconds=1800)

    def up(self, *arguments: str, seconds: float = 300) -> float:
        """`up --wait`; returns its seconds."""
        self.made = True
        began = time.monotonic()
        self.compose("up", "--detach", "--wait", "--no-build", *arguments, seconds=seconds)
        return time.monotonic() - began

    def down(self, *arguments: str) -> None:
        """`down`, which stops everything in order."""
        self.compose("down", "--remove-orphans", *arguments)

    def container(self, service: str) -> dict[str, Any]:
        """What `docker inspect` says of a service's container, also of one that ended."""
        identity = self.compose("ps", "--all", "--quiet", service).stdout.strip()
        [found] = self.engine.inspect(identity)
        return found

    def containers(self, services: tuple[str, ...] = FIVE) -> dict[str, dict[str, Any]]:
        return {service: self.container(service) for service in services}

    def environment(self, service: str, project: str = PROJECT) -> dict[str, str]:
        """The environment of a service's container; a variable without a value is not in it."""
        identity = self.compose("ps", "--all", "--quiet", service, project=project).stdout.strip()
        [found] = self.engine.inspect(identity)
        config: Any = found["Config"]
        return dict(entry.split("=", 1) for entry in config["Env"] if "=" in entry)

    def logs(self, service: str) -> list[str]:
        """Every line that a service wrote, to stdout and stderr."""
        found = []
        for identity in self.compose("ps", "--all", "--quiet", service).stdout.split():
            done = self.engine.run("logs", identity)
            found += (done.stdout + done.stderr).splitlines()
        return [line for line in found if line]

    def execute(self, service: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in a service's container, as its user."""
        return self.compose("exec", "--no-TTY", service, *command, check=check)

    def kill_at_once(self, services: tuple[str, ...] = FIVE) -> None:
        """SIGKILL from outside, in one call: for the engine they have crashed, and it starts them again."""
        pids = [str(found["State"]["Pid"]) for found in self.containers(services).values()]
        if self.engine.local or os.geteuid() == 0:
            subprocess.run(("kill", "-9", *pids), check=True)
        else:
            powers = ("--pid", "host", "--user", "0", "--cap-add", "KILL", "--entrypoint", "sh")
            self.engine.read("run", "--rm", *powers, "coordinator:local", "-c", f"kill -9 {' '.join(pids)}")


def documents(lines: list[str]) -> list[dict[str, Any]]:
    """The lines as JSON objects. Raises ValueError, with the line, for any other."""
    found = []
    for line in lines:
        try:
            document = json.loads(line)
        except ValueError:
            raise ValueError(f"not JSON: {line}") from None
        if not isinstance(document, dict):
            raise ValueError(f"not an object: {line}")
        found.append(document)
    return found


def eventually(told: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until this is true; returns the seconds that it took. Fails otherwise."""
    began = time.monotonic()
    while not told():
        assert time.monotonic() < began + seconds, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.5)  # the engine tells nobody
    return time.monotonic() - began
