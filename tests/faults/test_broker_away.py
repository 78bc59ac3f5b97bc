"""RabbitMQ goes away in the middle of the work, and comes back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from coordinator.dev.servers import RabbitMQServer
from tests.harness.executor import SERVICE
from tests.harness.health_watch import HealthWatch
from tests.harness.length import FULL
from tests.harness.logbook import Logbook
from tests.harness.stage import Stage
from tests.harness.waiting import eventually

JOBS = 200 if FULL else 80
BEFORE_THE_FAULT = 20
TIMEOUT_SECONDS = 3.0


def has_ended(log: Logbook, jobs: int) -> bool:
    return log.count("job.completed.v1") >= jobs


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_jobs_outlive_the_broker(
    tmp_path: Path, database_url: str, breakable_rabbitmq: RabbitMQServer, how: str
) -> None:
    """RabbitMQ restarted or killed amid many jobs: each is done exactly once, on its first attempt."""
    amqp_url = breakable_rabbitmq.new_vhost()
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        for rig in ("rig1", "rig2", "rig3"):
            stage.miner(rig, concurrency=3, region="eu" if rig == "rig3" else None)
        await stage.registered("rig1", "rig2", "rig3")
        await asyncio.to_thread(breakable_rabbitmq.settle)
        async with stage.rpc() as rpc:
            submitting = asyncio.gather(
                *(
                    stage.submit(
                        rpc,
                        f"job-{n}",
                        service=SERVICE if n % 2 else "checksum",
                        payload={"seconds": 0.1} if n % 2 else {"text": f"{n}"},
                    )
                    for n in range(JOBS)
                )
            )
            await eventually(lambda: has_ended(stage.log, BEFORE_THE_FAULT), "some jobs done")
            with HealthWatch(stage.urls["main"]) as health:
                if how == "kill":
                    await asyncio.to_thread(breakable_rabbitmq.settle)
                fault = time.monotonic()
                if how == "kill":
                    await asyncio.to_thread(breakable_rabbitmq.kill)
                await asyncio.to_thread(breakable_rabbitmq.restart)
                await health.fails(fault, "the broker is out of reach")
                jobs = await submitting
                await stage.ended(jobs)
                await health.works()  # nobody has given up
        checked = await stage.check()
        assert {"COMPLETED": JOBS} == checked.states()
        assert {1: JOBS} == checked.starts()
        assert 0 == stage.log.count("miner.lost.v1")


async def test_an_absent_broker_is_not_a_silent_miner(
    tmp_path: Path, database_url: str, breakable_rabbitmq: RabbitMQServer
) -> None:
    """RabbitMQ away for longer than the heartbeat timeout: no attempt is lost, and no session."""
    amqp_url = breakable_rabbitmq.new_vhost()
    settings = {"heartbeat_interval_seconds": 0.5, "heartbeat_timeout_seconds": TIMEOUT_SECONDS}
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **settings) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig1")
        async with stage.rpc() as rpc:
            job_id = await stage.submit(rpc, "long", payload={"until": "enough"})
            await stage.noted(f"begun-{job_id}-1")
            await asyncio.to_thread(breakable_rabbitmq.cut_power)
            killed_at = time.monotonic()
            await eventually(lambda: not stage.health()["ready"], "the coordinator to see that it is away")
            while time.monotonic() < killed_at + TIMEOUT_SECONDS * 2:
                assert not stage.health()["ready"]
                await asyncio.sleep(0.5)  # an outage of this length is what is tested
            await asyncio.to_thread(breakable_rabbitmq.start)
            back_at_ms = time.time() * 1000
            # Long enough after it for silence to count again, and heartbeats do come.
            until = back_at_ms + 2 * TIMEOUT_SECONDS * 1000
            await eventually(
                lambda: stage.log.column("SELECT lease_until FROM leases")[0] > until, "the lease extended"
            )
            stage.release("enough")
            await stage.ended([job_id])
        checked = await stage.check()
        assert {1: 1} == checked.starts()
        assert ["job.submitted", "job.started", "job.completed"] == stage.log.topics(job_id)
        assert 0 == stage.log.count("miner.lost.v1")
