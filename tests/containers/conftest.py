"""One engine, one set of images and one stack for the whole run, and the figures at its end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.client import Coordinator

from .bases import provide
from .engine import Engine, engine_in
from .stack import Stack

CACHE = Path(os.environ.get("DOCKER_TEST_CACHE", "/var/tmp/coordinator-docker-test"))
"""Of the engine and its images: removed in the end, unless DOCKER_TEST_KEEP=1."""
FIGURES = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> dict[str, str]:
    """What was measured, by name; shown at the end of the run."""
    return pytestconfig.stash.setdefault(FIGURES, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, {})
    if figures:
        terminalreporter.section("figures")
    for name, value in figures.items():
        terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def engine(figures: dict[str, str]) -> Iterator[Engine]:
    work = CACHE / "work"
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        yield from _engine(work, began, figures)
    finally:
        if os.environ.get("DOCKER_TEST_KEEP") != "1":
            shutil.rmtree(CACHE, ignore_errors=True)


def _engine(work: Path, began: float, figures: dict[str, str]) -> Iterator[Engine]:
    with engine_in(CACHE, work) as found:
        figures["engine"] = found.read("version", "--format", "{{.Server.Version}}")
        figures["compose"] = found.read("compose", "version", "--short")
        figures["seconds until an engine answered"] = f"{time.monotonic() - began:.0f}"
        yield found


@pytest.fixture(scope="session")
def images(engine: Engine, figures: dict[str, str]) -> dict[str, str]:
    """How each image of the compose file was had; ours are built later."""
    began = time.monotonic()
    compose = (Path(__file__).parents[2] / "docker/compose.yaml").read_text()
    names = re.findall(r"image: \$\{[A-Z]+_IMAGE:-([^}]+)\}", compose)
    had = provide(engine, names, CACHE)
    figures["seconds for the images of others"] = f"{time.monotonic() - began:.0f}"
    figures.update({f"image {name}": how for name, how in had.items()})
    return had


@pytest.fixture(scope="session")
def stack(engine: Engine, images: dict[str, str], figures: dict[str, str]) -> Iterator[Stack]:
    """The built images, and the compose project; it is up once the first check of it has run."""
    # Without the limits of APP_ENV=prod, which are for strangers; silent miners end while a test can wait.
    made = Stack(engine, CACHE / "work/checkout", RATE_LIMIT_REQUESTS="0", HEARTBEAT_TIMEOUT_SECONDS="20")
    began = time.monotonic()
    made.build()
    figures["seconds to build both images"] = f"{time.monotonic() - began:.0f}"
    made.make_secrets()
    made.down("--volumes")
    try:
        yield made
    finally:
        made.down("--volumes")
        engine.run("image", "prune", "--force", check=False)
        shutil.rmtree(CACHE / "work", ignore_errors=True)


@pytest.fixture
def client(stack: Stack) -> Iterator[Coordinator]:
    """A client with the key that make-secrets.sh made."""
    with stack.client() as made:
        yield made


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of ten seconds, whose conversion keeps a miner busy for a moment."""
    from imageio_ffmpeg import get_ffmpeg_exe

    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    source = ("-f", "lavfi", "-i", "testsrc2=duration=10:size=640x360:rate=25")
    subprocess.run((get_ffmpeg_exe(), "-v", "error", *source, "-c:v", "libx264", str(path)), check=True)
    return path
