"""Many jobs over several miners, and who gets them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from tests.harness.executor import SERVICE
from tests.harness.stage import BOB, Stage
from tests.harness.waiting import eventually

JOBS = 200
LONG = 5
IN_EUROPE = {"region": "eu"}


async def test_every_job_once(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """200 jobs of two clients over three miners of two profiles: one start, one result, one receipt each."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig1", concurrency=4, region="eu")
        stage.miner("rig2", concurrency=4, region="eu")
        stage.miner("rig3", concurrency=4)
        async with stage.rpc() as alice, stage.rpc(BOB) as bob:
            # More than two newcomers have slots for: all three are at work before the rest comes.
            until = {"until": "all work"}
            long = [await stage.submit(alice, f"long-{n}", payload=until) for n in range(LONG)]
            for job_id in long:
                await stage.noted(f"begun-{job_id}-1")
            stage.release("all work")
            jobs = await asyncio.gather(
                *(
                    stage.submit(
                        bob if n % 3 == 0 else alice,
                        f"job-{n}",
                        service=SERVICE if n % 2 else "checksum",
                        payload={"seconds": 0.02} if n % 2 else {"text": f"{n}"},
                        constraints=IN_EUROPE if n % 5 == 0 else {},
                        priority=n % 4,
                    )
                    for n in range(JOBS)
                )
            )
            jobs += long
            await stage.ended(jobs)
        checked = await stage.check()
        assert (JOBS + LONG, {"COMPLETED": JOBS + LONG}, {1: JOBS + LONG}) == (
            len(set(jobs)),
            checked.states(),
            checked.starts(),
        )
        done_by = Counter(
            (e.data["miner_id"], bool(checked.jobs[e.data["job_id"]].submitted["constraints"]["region"]))
            for e in stage.log.entries("job.completed.v1")
        )
        assert 0 == done_by["rig3", True], "a job that must be in Europe was done elsewhere"
        assert {"rig1", "rig2", "rig3"} == {miner for miner, _ in done_by}


async def test_no_slot_holds_two_offers_while_another_idles(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """Two jobs, two one-slot miners of one profile: both run at the same time, round after round."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig1")
        stage.miner("rig2")
        await stage.registered("rig1", "rig2")
        async with stage.rpc() as rpc:
            for number in range(4):
                until = {"until": f"round-{number}"}
                pair = [await stage.submit(rpc, f"{number}-{n}", payload=until) for n in range(2)]
                for job_id in pair:
                    await stage.noted(f"begun-{job_id}-1")
                stage.release(f"round-{number}")
                await stage.ended(pair)
            # More jobs than slots, and a slot that is free gets the next at once: nobody has two.
            jobs = await asyncio.gather(
                *(stage.submit(rpc, f"more-{n}", payload={"until": f"more-{n}"}) for n in range(8))
            )
            waiting = {job_id: f"more-{n}" for n, job_id in enumerate(jobs)}
            while waiting:
                begun = await eventually(lambda: begun_of(stage, waiting, 2), "both miners at work")
                for job_id in begun:
                    stage.release(waiting.pop(job_id))
            await stage.ended(jobs)
        checked = await stage.check()
        assert {1: 16} == checked.starts()
        shares = Counter(e.data["miner_id"] for e in stage.log.entries("job.completed.v1"))
        assert {"rig1": 8, "rig2": 8} == shares


def begun_of(stage: Stage, jobs: Collection[str], count: int) -> list[str]:
    """Those of the jobs that have begun, when they are so many."""
    begun = [job_id for job_id in jobs if list(stage.notes.glob(f"begun-{job_id}-*"))]
    assert len(begun) <= count
    return begun if len(begun) == count else []


async def test_priority_holds_behind_slow_work(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """While slow jobs fill every slot, what is urgent is not behind offers that nobody can take."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, offer_timeout_seconds=60) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig1", concurrency=2)
        await stage.registered("rig1")
        async with stage.rpc() as rpc:
            slow = [await stage.submit(rpc, f"slow-{n}", payload={"until": "first"}) for n in range(2)]
            for job_id in slow:
                await stage.noted(f"begun-{job_id}")
            patient = [await stage.submit(rpc, f"patient-{n}", payload={"seconds": 0.1}) for n in range(30)]
            await eventually(lambda: stage.log.positions()["dispatcher"] == stage.log.head(), "dispatched")
            urgent = await stage.submit(rpc, "urgent", payload={"seconds": 0.1}, priority=9)
            stage.release("first")
            await stage.ended([*slow, *patient, urgent])
        await stage.check()
        order = [e.data["job_id"] for e in stage.log.entries("job.started.v1")]
        behind = sum(job in patient for job in order[: order.index(urgent)])
        # What was offered just before it (a slot each, and what follows on quick completions) may go first.
        assert behind <= 8, f"the urgent job came after {behind} others"
