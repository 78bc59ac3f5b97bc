"""Miners that fail, hoard and let offers lie, beside an honest one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

from tests.harness.stage import ROOT, Stage

JOBS = 200
PIECE = {"seconds": 0.1}
SLOTS = 4


async def test_a_failing_and_a_hoarding_miner_cost_little_and_can_mend_their_ways(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """An honest miner beside them completes all jobs within twice its time alone; mended, they work again."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        stage.miner("rig3", concurrency=SLOTS)
        await stage.registered("rig3")
        async with stage.rpc() as rpc:

            async def work(name: str) -> tuple[float, list[str]]:
                begun = time.monotonic()
                jobs = await asyncio.gather(
                    *(stage.submit(rpc, f"{name}-{n}", payload=PIECE) for n in range(JOBS))
                )
                await stage.ended(jobs)
                return time.monotonic() - begun, jobs

            def completed_by(jobs: list[str]) -> Counter[str]:
                entries = stage.log.entries("job.completed.v1")
                return Counter(e.data["miner_id"] for e in entries if e.data["job_id"] in set(jobs))

            begun = time.time()
            alone, _ = await work("alone")
            stage.miner("rig1", concurrency=64, manner="fails")
            stage.miner("rig2", concurrency=1024, manner="hoards")
            await stage.registered("rig1", "rig2")
            beside, jobs = await work("beside")
            assert Counter({"rig3": JOBS}) == completed_by(jobs)
            assert beside < 2 * alone, (alone, beside)
            failures = [e.data for e in stage.log.entries("job.attempt_ended.v1")]
            print(f"alone {alone:.1f} s, beside {beside:.1f} s, {Counter(f['error_code'] for f in failures)}")  # noqa: T201
            assert {"rig1", "rig2"} == {f["miner_id"] for f in failures}

            async with stage.client(ROOT) as admin:
                [shown] = (await admin.miner("rig2"))["standing"]
            assert shown["state"] in ("DOUBTED", "QUARANTINED"), shown
            assert shown["too_slow"] > 0
            assert shown["slots"] == 1

            for bad in ("rig1", "rig2"):
                (stage.notes / f"mended-{bad}").touch()
            mended: list[str] = []

            async def both_work() -> bool:
                _, more = await work(f"mended-{len(mended)}")
                mended.extend(more)
                done = completed_by(mended)
                return min(done["rig1"], done["rig2"]) > JOBS // 20

            while not await both_work():
                assert len(mended) < 40 * JOBS, (
                    completed_by(mended),
                    [
                        (
                            round(e.data["at"] / 1000 - begun, 1),
                            e.topic,
                            e.data["principal"],
                            e.data["reason"],
                        )
                        for e in [
                            *stage.log.entries("standing.quarantined.v1"),
                            *stage.log.entries("standing.released.v1"),
                        ]
                    ],
                )
            print(f"mended after {len(mended)} jobs: {completed_by(mended)}")  # noqa: T201
        checked = await stage.check()
        assert {"COMPLETED"} == set(checked.states())
        for entry in stage.log.entries("standing.released.v1"):
            assert "completed a probe job" == entry.data["reason"]
        quarantined = Counter(e.data["principal"] for e in stage.log.entries("standing.quarantined.v1"))
        released = Counter(e.data["principal"] for e in stage.log.entries("standing.released.v1"))
        assert quarantined == released
        assert quarantined["rig3"] == 0
