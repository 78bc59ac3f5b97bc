"""Two coordinator processes on one database and broker: one leads, both serve."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from coordinator.client.errors import Conflict
from tests.harness.executor import SERVICE
from tests.harness.hand import HandMiner
from tests.harness.processes import Process
from tests.harness.stage import Stage, key_of
from tests.harness.waiting import eventually

BOTH = ("one", "other")
RACES = 40


class Pair:
    """Both coordinators, and which of them leads."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.processes: dict[str, Process] = {}

    async def start(self) -> None:
        for name in BOTH:  # the first is ready, and so leads everything, before the second comes
            self.processes[name] = self.stage.coordinator(name)
            await self.stage.ready(name)
            await eventually(lambda: self.lead_by("one"), "the first leads")
        await self.stage.rehearse()

    def statuses(self, name: str) -> set[str]:
        return {f["status"] for f in self.stage.health(name)["followers"].values()}

    def lead_by(self, name: str) -> bool:
        """Whether this process leads every follower, and nobody else leads any."""
        rest = [other for other in self.processes if other != name and self.processes[other].ended is None]
        return {"leading"} == self.statuses(name) and all({"standby"} == self.statuses(o) for o in rest)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_the_standby_takes_over(tmp_path: Path, database_url: str, amqp_url: str, how: str) -> None:
    """A leader that dies or stands still is replaced within seconds; coming back it writes nothing."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        pair = Pair(stage)
        await pair.start()
        for rig in ("rig1", "rig2"):
            stage.miner(rig, concurrency=2, coordinator="other")
        async with stage.rpc() as rpc:
            before = [await stage.submit(rpc, f"before-{n}", payload={"until": "go on"}) for n in range(3)]
            for job_id in before:
                await stage.noted(f"begun-{job_id}-1")
            leader = pair.processes["one"]
            leader.kill() if how == "killed" else leader.freeze()
            stage.release("go on")
            # Half of the commands wait in the frozen one's prefetch until they are repeated.
            meanwhile = await asyncio.gather(
                *(stage.submit(rpc, f"meanwhile-{n}", payload={"seconds": 0.05}) for n in range(8))
            )
            await eventually(lambda: pair.statuses("other") == {"leading"}, "the standby leads")
            await stage.ended([*before, *meanwhile])
            leader.thaw()
            if how == "frozen":
                await eventually(lambda: pair.lead_by("other"), "the zombie stands by")
            else:
                pair.processes["one"] = stage.coordinator("one")
                await stage.ready("one")
                await eventually(lambda: pair.lead_by("other"), "the one that came back stands by")
            after = await stage.submit(rpc, "after", payload={"seconds": 0.05})
            await stage.ended([after])
        checked = await stage.check()
        assert ({"COMPLETED": 12}, {1: 12}) == (checked.states(), checked.starts())
        assert 0 == stage.log.count("miner.lost.v1")


async def test_commands_race_through_both(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """Submits, cancels and results of the same jobs through both at once: one outcome, told to everybody."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        pair = Pair(stage)
        await pair.start()
        stage.miner("rig1", concurrency=4, coordinator="one")
        stage.miner("rig2", concurrency=4, transport="http", coordinator="other")
        await stage.registered("rig1", "rig2")
        chance = random.Random(7)
        canceled: set[str] = set()
        async with stage.client(coordinator="one") as one, stage.client(coordinator="other") as other:

            async def race(number: int) -> str:
                asked = {"seconds": 0.05}
                first, second = await asyncio.gather(
                    *(c.submit(SERVICE, asked, idempotency_key=f"race-{number}") for c in (one, other))
                )
                assert first.job_id == second.job_id
                stage.accepted.add(first.job_id)
                await asyncio.sleep(chance.random() * 0.3)  # anywhere in the job's life
                for outcome in await asyncio.gather(
                    *(c.job(first.job_id).cancel() for c in (one, other)), return_exceptions=True
                ):
                    if not isinstance(outcome, Conflict):
                        assert not isinstance(outcome, BaseException), outcome
                        canceled.add(first.job_id)
                return first.job_id

            jobs = await asyncio.gather(*map(race, range(RACES)))
            await stage.ended(jobs)
        checked = await stage.check()
        assert canceled == {j.job_id for j in checked.jobs.values() if j.state == "CANCELED"}
        assert {"COMPLETED": RACES - len(canceled), "CANCELED": len(canceled)} == {
            "COMPLETED": 0,
            "CANCELED": 0,
            **checked.states(),
        }


async def test_one_result_through_both_is_paid_once(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """The same result, handed in many times through both processes at once: one receipt, one answer."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        await Pair(stage).start()
        async with stage.rpc() as rpc, stage.rpc(key_of("rig1")) as rig1, stage.rpc(key_of("rig2")) as rig2:
            mine, theirs = HandMiner(rig1, "rig1"), HandMiner(rig2, "rig2")
            for miner in (mine, theirs):
                assert "accepted" == (await miner.register())["status"]
            jobs = [await stage.submit(rpc, f"job-{n}") for n in range(10)]
            submitted = {e.data["job_id"]: e.data for e in stage.log.entries("job.submitted.v1")}

            async def fight(job_id: str) -> None:
                job = submitted[job_id]
                answers = await asyncio.gather(
                    *(miner.complete(job, by=miner.name) for miner in (mine, theirs) for _ in range(4))
                )
                accepted = [a for a in answers if a["status"] == "accepted"]
                assert 4 == len(accepted)
                promises = [{**a["promise"], "signature": None} for a in accepted]
                assert [promises[0]] * 4 == promises
                assert {"CONFLICT_STATE"} == {a["code"] for a in answers if a["status"] == "refused"}

            await asyncio.gather(*map(fight, jobs))
        checked = await stage.check()
        assert {"COMPLETED": 10} == checked.states()
