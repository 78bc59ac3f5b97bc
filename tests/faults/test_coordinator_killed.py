"""The coordinator dies at the worst moments, and is started again."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.harness.executor import SERVICE
from tests.harness.length import FULL
from tests.harness.stage import Stage
from tests.harness.waiting import eventually

JOBS = 60
TIMEOUT_SECONDS = 3.0
DEATHS = [
    ("before-offers", 6),
    ("after-submit-commit", 2),
    ("after-result-commit", 4),
    ("in-projection", 8),
    ("in-checkpoint", 1),
    ("after-events-published", 8),
]
# A checkpoint is signed once a second: a short run may have only one.
MORE_DEATHS = [(s, n) for s, _ in DEATHS for n in (1, 3, 5) if s != "in-checkpoint"] if FULL else []


@pytest.mark.parametrize(("step", "n"), DEATHS + MORE_DEATHS)
async def test_killed_at(tmp_path: Path, database_url: str, amqp_url: str, step: str, n: int) -> None:
    """Killed between two steps and started again: every job is done once, as if nothing had happened."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        doomed = stage.coordinator(dies=(step, n))
        for rig in ("rig1", "rig2"):
            stage.miner(rig, concurrency=3)
        async with stage.rpc() as rpc:

            async def one(number: int) -> str:
                return await stage.submit(
                    rpc,
                    f"job-{number}",
                    service=SERVICE if number % 3 else "checksum",
                    payload={"seconds": 0.05} if number % 3 else {"text": f"{number}"},
                )

            async def all_of_them() -> list[str]:
                # In groups, so that there are several commits, batches and offers to die between.
                groups = [range(at, at + 10) for at in range(0, JOBS, 10)]
                return [job for group in groups for job in await asyncio.gather(*map(one, group))]

            submitting = asyncio.create_task(all_of_them())
            await eventually(lambda: doomed.ended is not None, f"death {step}")
            assert -signal.SIGKILL == doomed.ended
            stage.coordinator()
            jobs = await submitting
            await stage.ended(jobs)
        await stage.ready()
        checked = await stage.check()
        assert ({"COMPLETED": JOBS}, {1: JOBS}) == (checked.states(), checked.starts())


@pytest.mark.parametrize(("step", "n"), [("after-result-commit", 5), ("in-projection", 8)])
async def test_embedded_killed_at(tmp_path: Path, step: str, n: int) -> None:
    """The same in one process over SQLite: what was accepted is done and paid once."""
    with Stage(tmp_path, heartbeat_interval_seconds=0.5, heartbeat_timeout_seconds=4) as stage:
        doomed = stage.coordinator(dies=(step, n))
        stage.miner("rig1", concurrency=3)
        async with stage.client(tries=30) as client:

            async def one(number: int) -> str:
                job = await client.submit(SERVICE, {"seconds": 0.02}, idempotency_key=f"job-{number}")
                stage.accepted.add(job.job_id)
                return job.job_id

            await stage.registered("rig1")
            submitting = asyncio.gather(*map(one, range(20)))
            await eventually(lambda: doomed.ended is not None, f"death {step}")
            again = stage.coordinator(dies=("never", 1))
            jobs = await submitting
            await stage.ended(jobs)
        await eventually(lambda: set(stage.log.positions().values()) == {stage.log.head()}, "caught up")
        assert 0 == again.stop()
        checked = await stage.check()
        assert {"COMPLETED": 20} == checked.states()
        # A poll that was claimed and never answered is lost with its lease, and offered again.
        assert {1, 2} >= checked.starts().keys()


async def test_an_absent_coordinator_costs_no_lease(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """Away for longer than the heartbeat timeout: the attempts that run go on, under their leases."""
    settings = {"heartbeat_interval_seconds": 0.5, "heartbeat_timeout_seconds": TIMEOUT_SECONDS}
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **settings) as stage:
        coordinator = stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig1", concurrency=2)
        async with stage.rpc() as rpc:
            before = await stage.submit(rpc, "ends while it is away", payload={"until": "away"})
            after = await stage.submit(rpc, "ends later", payload={"until": "enough"})
            for job_id in (before, after):
                await stage.noted(f"begun-{job_id}-1")
            coordinator.kill()
            stage.release("away")
            await asyncio.sleep(1.5 * TIMEOUT_SECONDS)  # an absence of this length is what is tested
            stage.coordinator()
            await stage.ready()
            await stage.ended([before])
            # Long enough after it for silence to count again, and heartbeats do come.
            until = time.time() * 1000 + 2 * TIMEOUT_SECONDS * 1000
            await eventually(
                lambda: stage.log.column("SELECT lease_until FROM leases")[0] > until, "the lease extended"
            )
            stage.release("enough")
            await stage.ended([after])
        checked = await stage.check()
        assert ({"COMPLETED": 2}, {1: 2}) == (checked.states(), checked.starts())
        assert 0 == stage.log.count("miner.lost.v1")
