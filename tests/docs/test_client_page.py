"""docs/client.md, done as it says: its Python examples run in order, against a real coordinator and miner."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually_now

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
RUN_SECONDS = 120.0


def script(kinds: tuple[str, ...]) -> str:
    """The examples of these kinds as one program."""
    found = re.findall(r"^```(python[^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert {"python", "python amqp"} == {kind for kind, _ in found}
    return "\n".join(text for kind, text in found if kind in kinds)


@pytest.mark.parametrize("mode", ["embedded", "standard"])
def test_every_example_runs(request: pytest.FixtureRequest, tmp_path: Path, mode: str) -> None:
    """The page's program runs to its end over HTTP in embedded mode, and with RabbitMQ in standard mode."""
    urls: dict[str, str] = {}
    kinds: tuple[str, ...] = ("python",)
    if mode == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
        kinds = ("python", "python amqp")
    with Stage(tmp_path, **urls) as stage:
        stage.coordinator()
        eventually_now(lambda: stage.health()["ready"], "ready")
        stage.program_miner("rig1", transport="amqp" if urls else "http")
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script(kinds)],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "COORDINATOR_URL": stage.urls["main"],
                "COORDINATOR_API_KEY": ALICE,
                "AMQP_URL": urls.get("amqp_url", ""),
            },
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    assert "11 of 11 bytes" in lines
    assert lines[-1].startswith("SERVICE_NOT_FOUND ")
