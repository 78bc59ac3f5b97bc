"""Two coordinators of an earlier commit are replaced by this one under load, one by one.

TEST_UPGRADE_FROM names the earlier version, any commit or tag of this repository; else the last commit.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from coordinator.client import CoordinatorError
from tests.harness.executor import SERVICE
from tests.harness.length import FULL
from tests.harness.processes import ROOT, Process, as_settings
from tests.harness.stage import ALICE, BOB, MINERS, SIGNING_SEED, Stage, key_of
from tests.harness.stage import ROOT as ADMIN
from tests.harness.waiting import eventually

FROM = os.environ.get("TEST_UPGRADE_FROM", "HEAD^")
BOTH = ("one", "other")
TAKEOVER_SECONDS = 3.5
"""Until a leader that died is replaced: its names are free after three seconds."""
ANSWER_SECONDS = 6.0
"""For one try of a command, and the work of a loaded machine besides."""
LOAD_SECONDS = 8.0 if FULL else 2.0
"""Before, between and after the replacements."""


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """As the operator has made it: without our tables."""
    return empty_database_url


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the earlier version."""
    folder = tmp_path_factory.mktemp("earlier")
    archive = subprocess.run(["git", "archive", FROM, "src"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        why = archive.stderr.decode().strip()
        if "TEST_UPGRADE_FROM" in os.environ:
            pytest.fail(f"TEST_UPGRADE_FROM={FROM}: {why}", pytrace=False)
        pytest.skip(f"the git history has no {FROM}, so there is no version to upgrade from: {why}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder / "src"


def start_earlier(stage: Stage, sources: Path, name: str) -> Process:
    """A coordinator of the earlier version, with the stage's settings."""
    from coordinator.dev.servers.processes import free_port

    url = stage.urls.setdefault(name, f"http://127.0.0.1:{free_port()}")
    given: dict[str, object] = {
        "app_port": url.rpartition(":")[2],
        "data_dir": stage.folder / f"data-{name}",
        "blob_store": stage.folder / "blobs",
        "client_api_keys": f"{ALICE},{BOB}",
        "admin_api_keys": ADMIN,
        "miner_api_keys": ",".join(map(key_of, MINERS)),
        "receipt_signing_key_hex": SIGNING_SEED,
        "heartbeat_interval_seconds": 1,
        "heartbeat_timeout_seconds": 30,
        "offer_timeout_seconds": 2,
        "database_url": stage.database_url,
        "amqp_url": stage.amqp_url,
        "pythonpath": sources,
    }
    # By its file: the tests' quick way to start processes has this version's modules.
    process = Process(f"{name}-earlier", stage.folder, "coordinator.__main__", "serve", **as_settings(given))
    stage.processes.append(process)
    return process


@dataclass
class Load:
    """Commands, one after the other, each repeated until it is accepted."""

    submit: Callable[[str], Awaitable[str]]
    name: str
    jobs: list[str] = field(default_factory=list)
    longest: float = 0.0
    """Seconds from the first try of a command to its acceptance."""
    refusals: int = 0
    stop: bool = False

    async def run(self) -> None:
        while not self.stop:
            key, began = f"{self.name}-{len(self.jobs)}", time.monotonic()
            while True:
                try:
                    job_id = await self.submit(key)
                except (CoordinatorError, ConnectionError, TimeoutError):
                    self.refusals += 1
                    await asyncio.sleep(0.05)
                else:
                    break
            self.longest = max(self.longest, time.monotonic() - began)
            self.jobs.append(job_id)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("end", ["stopped", "killed"] if FULL else ["stopped"])
async def test_two_versions_take_turns_under_load(
    tmp_path: Path, database_url: str, amqp_url: str, earlier: Path, end: str
) -> None:
    """No job is lost, and no command waits for longer than a takeover, over AMQP and over HTTP."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        running = {name: start_earlier(stage, earlier, name) for name in BOTH}
        for name in BOTH:
            await stage.ready(name)
        await stage.rehearse()
        stage.miner("rig1", concurrency=4, coordinator="one")
        stage.miner("rig2", concurrency=4, transport="http", coordinator="other")
        await stage.registered("rig1", "rig2")
        async with (
            stage.rpc() as rpc,
            stage.client(coordinator="one", tries=1) as one,
            stage.client(coordinator="other", tries=1) as other,
        ):

            async def over_amqp(key: str) -> str:
                command: dict[str, Any] = {"service": SERVICE, "payload": {"seconds": 0.01}}
                answer = await rpc.call("job.submit", {**command, "idempotency_key": key})
                if answer["status"] != "accepted":
                    raise ConnectionError(answer["code"])
                return str(answer["job_id"])

            async def over_http(key: str) -> str:
                # As behind a load balancer: what one process does not answer, the other one gets.
                for client in (one, other):
                    try:
                        job = await client.submit(SERVICE, {"seconds": 0.01}, idempotency_key=key)
                    except CoordinatorError:
                        continue
                    return job.job_id
                raise ConnectionError("nobody answers")

            loads = [Load(over_amqp, "amqp"), Load(over_http, "http")]
            tasks = [asyncio.create_task(load.run()) for load in loads]
            await asyncio.sleep(LOAD_SECONDS)
            for name in BOTH:
                if end == "killed":
                    running[name].kill()
                else:
                    await asyncio.to_thread(running[name].stop)
                running[name] = stage.coordinator(name)
                await stage.ready(name)
                await asyncio.sleep(LOAD_SECONDS)
            for load in loads:
                load.stop = True
            await asyncio.wait_for(asyncio.gather(*tasks), 60)
        jobs = [job for load in loads for job in load.jobs]
        stage.accepted.update(jobs)
        await stage.ended(jobs)
        await eventually(lambda: stage.health("one")["ready"] and stage.health("other")["ready"], "both well")
        for load in loads:
            print(f"{load.name}: {len(load.jobs)} jobs, longest {load.longest:.2f} s")  # noqa: T201
            assert len(load.jobs) > 10
            assert load.longest < TAKEOVER_SECONDS + ANSWER_SECONDS, load.name
        checked = await stage.check()
        assert {"COMPLETED": len(jobs)} == checked.states()
        assert 0 == stage.log.count("miner.lost.v1")
