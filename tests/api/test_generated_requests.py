"""Requests that are generated from the OpenAPI document, against a running coordinator with a miner.

schemathesis (`schemathesis.toml` is beside this) sends what the document allows and what it forbids, follows
links from answers to requests, and checks each answer against the document: its status, headers, type and
schema, no server error, nothing without a key. It is deterministic: a run finds what the last one found.

    make test T="tests/api -k embedded"

`make faults` sends more of them, and random ones besides.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.length import FULL
from tests.harness.processes import ROOT
from tests.harness.stage import ALICE, Stage, key_of
from tests.harness.stage import ROOT as ADMIN

RUN_SECONDS = 400.0
"""For machines that do other things at the same time; alone, it takes half a minute."""


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    ("mode", "phases", "examples"),
    # Storage and broker are behind the same ports, so fewer requests do where the servers are real.
    [
        (
            "embedded",
            "examples,coverage,fuzzing,stateful" if FULL else "examples,coverage,stateful",
            8 if FULL else 2,
        ),
        ("standard", "examples,fuzzing,stateful" if FULL else "examples,stateful", 4 if FULL else 2),
    ],
)
async def test_generated_requests(
    request: pytest.FixtureRequest, tmp_path: Path, mode: str, phases: str, examples: int
) -> None:
    """Nothing that can be asked breaks the coordinator, and every answer is as the document says."""
    urls: dict[str, str] = {}
    if mode == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    with Stage(tmp_path, **urls) as stage:
        coordinator = stage.coordinator()
        await stage.ready()
        stage.program_miner("rig2", transport="http")  # so that some of the jobs are done
        await stage.registered("rig2")
        asked = run(stage.urls["main"], phases, examples, tmp_path)
        assert asked.returncode == 0, asked.stdout + asked.stderr
        # It is as well as before, and has met nothing that it did not expect.
        assert stage.health()["status"] == "ok"
        assert coordinator.ended is None
        assert "a request failed" not in coordinator.log.read_text()


def run(url: str, phases: str, examples: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """One run of schemathesis; its report is its output."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
            *("run", f"{url}/openapi.json"),
            *("--phases", phases, "--max-examples", str(examples), "--no-color"),
        ],
        cwd=folder,  # what it leaves behind goes with the test
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CLIENT_KEY": ALICE,
            "MINER_KEY": key_of("rig1"),
            "ADMIN_KEY": ADMIN,
        },
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
