"""A Docker engine to test with: the one that runs here, or Debian's, started by hand and removed afterwards.

The compose files need Engine 25 and Compose 2.24, which Debian has since version 13. Its packages are
unpacked into a folder, where the engine runs as in a small machine of its own: so an older Debian does, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

RELEASE = "trixie"
"""Of Debian; mmdebstrap knows its mirrors."""
PACKAGES = ("ca-certificates", "docker.io", "docker-cli", "docker-compose", "docker-buildx", "iptables")
OLDEST_API, OLDEST_COMPOSE = (1, 44), (2, 24)
START_SECONDS = 60.0


class NoEngine(Exception):
    """No engine runs here and none can be started; the message says what is missing."""


@dataclass(frozen=True)
class Engine:
    """How to reach an engine."""

    environment: Mapping[str, str] = field(default_factory=dict)
    local: bool = False
    """Whether we started it, and so have to make the images that it cannot fetch."""

    def run(
        self, *arguments: str, folder: Path | None = None, seconds: float = 900, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`docker` with these arguments. Raises CalledProcessError, with what it wrote as a note."""
        done = subprocess.run(
            ("docker", *arguments),
            cwd=folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if check and done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            error.add_note(done.stdout[-4000:] + done.stderr[-4000:])
            raise error
        return done

    def read(self, *arguments: str, folder: Path | None = None, seconds: float = 900) -> str:
        """What `docker` prints."""
        return self.run(*arguments, folder=folder, seconds=seconds).stdout.strip()

    def inspect(self, *names: str) -> list[dict[str, object]]:
        """The documents of containers or images."""
        found: list[dict[str, object]] = json.loads(self.read("inspect", *names))
        return found

    def answers(self) -> bool:
        """Whether it is there, and new enough."""
        with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
            api = self.read("version", "--format", "{{.Server.APIVersion}}", seconds=20)
            compose = self.read("compose", "version", "--short", seconds=20)
            return _version(api) >= OLDEST_API and _version(compose) >= OLDEST_COMPOSE
        return False


@contextlib.contextmanager
def engine_in(folder: Path, shared: Path) -> Iterator[Engine]:
    """An engine that sees `shared` at the same path. One that was started here is stopped in the end.

    `folder` keeps what can be used again: the unpacked packages, and the engine's images. Raises NoEngine.
    """
    here = Engine()
    if here.answers():
        yield here
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        raise NoEngine(
            "no Docker Engine 25 with Compose 2.24 answers: start one, or run this as root on Debian"
        )
    root = folder / "engine"
    if not (root / "usr/sbin/dockerd").exists():
        _unpack(root)
    with _started(folder, root, shared) as engine:
        yield engine


def debian_root(to: Path, *options: str) -> None:
    """A small Debian as a folder or a tar file. Raises CalledProcessError."""
    if shutil.which("mmdebstrap") is None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(("apt-get", "update", "--quiet"), check=True, env=environment)
        install = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "mmdebstrap")
        subprocess.run(install, check=True, env=environment)
    # On another Debian than ours, apt needs the keys that came with our archive keyring.
    no_extras = ("--variant=minbase", "--aptopt=APT::Install-Recommends false")
    subprocess.run(("mmdebstrap", "--quiet", *no_extras, *options, RELEASE, str(to)), check=True)


def _unpack(root: Path) -> None:
    unfinished = root.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    debian_root(unfinished, "--format=directory", f"--include={','.join(PACKAGES)}")
    unfinished.rename(root)


# In a mount namespace of its own, so that all its mounts go with it. The folder becomes the root of that
# namespace: were it a mere chroot, `docker exec` would lead into the root of this machine.
_START = """
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
for place in proc sys dev; do mount --rbind "/$place" "$place"; done
mount -t tmpfs tmpfs run
mkdir -p ".$2" before
mount --bind "$2" ".$2"
pivot_root . before
umount --lazy /before
cd /
exec /usr/sbin/dockerd --host unix:///socket/docker.sock --pidfile /run/docker.pid
"""


@contextlib.contextmanager
def _started(folder: Path, root: Path, shared: Path) -> Iterator[Engine]:
    socket = root / "socket"
    socket.mkdir(mode=0o700, exist_ok=True)
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    plugins = folder / "docker/cli-plugins"
    shutil.rmtree(plugins.parent, ignore_errors=True)
    plugins.mkdir(parents=True)
    for plugin in (root / "usr/libexec/docker/cli-plugins").iterdir():
        (plugins / plugin.name).symlink_to(plugin)
    programs = folder / "programs"  # for machines without a client
    programs.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (programs / "docker").symlink_to(root / "usr/bin/docker")
    engine = Engine(
        {
            "DOCKER_HOST": f"unix://{socket}/docker.sock",
            "DOCKER_CONFIG": str(plugins.parent),
            "PATH": f"{os.environ['PATH']}{os.pathsep}{programs}",
        },
        local=True,
    )
    log = folder / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ("unshare", "--mount", "sh", "-c", _START, "sh", str(root), str(shared)),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not engine.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NoEngine(f"dockerd did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.3)
        yield engine
    finally:
        process.send_signal(signal.SIGTERM)  # stops the containers, and the containerd that it started
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _version(text: str) -> tuple[int, int]:
    major, minor = text.lstrip("v").split(".")[:2]
    return int(major), int(minor)
