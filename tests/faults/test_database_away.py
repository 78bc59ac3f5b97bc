"""Postgres goes away in the middle of the work, and comes back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from coordinator.dev.servers import PostgresServer
from tests.harness.executor import SERVICE
from tests.harness.health_watch import HealthWatch
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually

JOBS = 200
BEFORE_THE_FAULT = 40


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_jobs_outlive_the_database(
    tmp_path: Path, amqp_url: str, breakable_postgres: PostgresServer, how: str
) -> None:
    """Postgres restarted or killed amid 200 jobs: each is done once; commands come late or UNAVAILABLE."""
    database_url = breakable_postgres.new_database()
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        for rig in ("rig1", "rig2", "rig3"):
            stage.miner(rig, concurrency=3, region="eu" if rig == "rig3" else None)
        await stage.registered("rig1", "rig2", "rig3")
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
            await eventually(
                lambda: stage.log.count("job.completed.v1") >= BEFORE_THE_FAULT, "some jobs done"
            )
            with HealthWatch(stage.urls["main"]) as health:
                fault = time.monotonic()
                if how == "kill":
                    await asyncio.to_thread(breakable_postgres.kill)
                else:
                    await asyncio.to_thread(breakable_postgres.stop)
                # While it is away a command is not known to be done, and says so.
                code, answer = await submit_by_http(stage)
                assert (503, "UNAVAILABLE") == (code, answer["code"])
                await health.fails(fault, "the database can't be reached")
                await asyncio.to_thread(breakable_postgres.start)
                await health.works()

            async def accepted() -> str:
                while True:
                    code, answer = await submit_by_http(stage)
                    if code == 201:
                        return str(answer["job_id"])
                    assert (503, "UNAVAILABLE") == (code, answer["code"])

            async with asyncio.timeout(60):
                late = await accepted()
            assert late == (await submit_by_http(stage))[1]["job_id"]
            stage.accepted.add(late)
            jobs = [*await submitting, late]
            await stage.ended(jobs)
        await stage.ready()  # nobody has given up
        checked = await stage.check()
        assert {"COMPLETED": JOBS + 1} == checked.states()
        assert {1: JOBS + 1} == checked.starts()
        assert 0 == stage.log.count("miner.lost.v1")


async def test_lost_acknowledgements(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """Every other commit takes place and is not known to: commands are repeated, and nothing is doubled."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator(dies=("lost-acknowledgements", 2))
        await stage.ready()
        stage.miner("rig1", concurrency=3)
        async with stage.rpc() as rpc:

            async def one(number: int) -> str:
                # Without a key of its own: also then a repeat must be known for one.
                answer = await rpc.call("job.submit", {"service": SERVICE, "payload": {"n": number}})
                stage.accepted.add(answer["job_id"])
                return str(answer["job_id"])

            jobs = [job for at in range(5) for job in await asyncio.gather(*map(one, range(at, at + 3)))]
            await stage.ended(jobs)
        checked = await stage.check()
        assert ({"COMPLETED": 15}, {1: 15}) == (checked.states(), checked.starts())


async def submit_by_http(stage: Stage) -> tuple[int, dict[str, str]]:
    """One try, without an SDK that would try again."""
    async with httpx.AsyncClient(base_url=stage.urls["main"], timeout=30) as http:
        answer = await http.post(
            "/v1/jobs",
            json={"service": "checksum", "payload": {"text": "meanwhile"}},
            headers={"X-Api-Key": ALICE, "Idempotency-Key": "meanwhile"},
        )
        return answer.status_code, answer.json()
