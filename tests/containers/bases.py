"""The images that the container files begin with: pulled, or made here where no registry can be reached.

What is made here is Debian's: the root that the official image `debian:trixie-slim` has, and on it Debian's
RabbitMQ 4.0, Postgres 17 and Prometheus 2.53 behind entry points that take the official images' variables.
There is nothing of the kind for Grafana.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .engine import Engine, debian_root

DEBIAN: Final = "debian:trixie-slim"
DEBIAN_AS_MADE: Final = "debian:trixie-slim-made-here"
DOCKERFILES: Final = Path(__file__).parent / "images"
MADE_FROM: Final = {"postgres": "postgres", "rabbitmq": "rabbitmq", "prom/prometheus": "prometheus"}
PULL_SECONDS: Final = 300
AUTHORITIES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
# As in Debian's image: https://github.com/debuerreotype/debuerreotype, "slim".
SLIM: Final = (
    *(
        f"path-exclude=/usr/share/{folder}/*"
        for folder in ("doc", "groff", "info", "linda", "lintian", "man")
    ),
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/doc/*/copyright",
)


def provide(engine: Engine, names: Iterable[str], folder: Path) -> dict[str, str]:
    """Make these images available.

    Returns how each was had: "there", "pulled", "made here", or "not to be had".
    """
    return {name: _provide(engine, name, folder) for name in (DEBIAN, *names)}


def _provide(engine: Engine, name: str, folder: Path) -> str:
    if engine.run("image", "inspect", name, check=False).returncode == 0:
        return "there"
    try:
        if engine.run("pull", "--quiet", name, seconds=PULL_SECONDS, check=False).returncode == 0:
            return "pulled"
    except subprocess.TimeoutExpired:
        pass
    if name == DEBIAN:
        _make_debian(engine, folder)
        return "made here"
    made_from = MADE_FROM.get(name.partition(":")[0])
    if made_from is None:
        return "not to be had"
    _build(engine, made_from, name)
    return "made here"


def _make_debian(engine: Engine, folder: Path) -> None:
    archive = folder / "debian.tar"
    if not archive.exists():
        unfinished = folder / "debian-new.tar"
        debian_root(unfinished, *(f"--dpkgopt={option}" for option in SLIM))
        unfinished.rename(archive)
    engine.read("import", "--change", 'CMD ["bash"]', str(archive), DEBIAN_AS_MADE)
    context = folder / "debian"
    context.mkdir(exist_ok=True)
    # pip reaches the package index as this machine does, also through a proxy with an authority of its own.
    shutil.copy(AUTHORITIES, context / "authorities.crt")
    engine.read("build", "--file", str(DOCKERFILES / "debian.Dockerfile"), "--tag", DEBIAN, str(context))


def _build(engine: Engine, made_from: str, name: str) -> None:
    dockerfile = str(DOCKERFILES / f"{made_from}.Dockerfile")
    engine.read("build", "--network", "host", "--file", dockerfile, "--tag", name, str(DOCKERFILES))
