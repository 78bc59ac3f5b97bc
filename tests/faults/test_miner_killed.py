"""A miner dies with a job in hand, and what is left of it speaks up too late."""

from __future__ import annotations

from pathlib import Path

from tests.harness.hand import HandMiner
from tests.harness.stage import Stage, key_of
from tests.harness.waiting import eventually

QUICK = {"heartbeat_interval_seconds": 0.5, "heartbeat_timeout_seconds": 5}


async def test_a_dead_miners_job_is_anothers(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """Killed while it holds a job: attempt 2 is another miner's, and the dead one's session is over."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **QUICK) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        doomed = stage.miner("rig1")
        await stage.registered("rig1")
        async with stage.rpc() as rpc:
            job_id = await stage.submit(rpc, "one", payload={"until": "never for the first"})
            await stage.noted(f"begun-{job_id}-1-rig1")
            doomed.kill()
            stage.miner("rig2")
            await stage.noted(f"begun-{job_id}-2-rig2")
            stage.release("never for the first")
            await stage.ended([job_id])
        checked = await stage.check()
        assert {2: 1} == checked.starts()
        [receipt] = checked.jobs[job_id].receipts
        assert ("rig2", 2) == (receipt["provider"], receipt["metadata"]["attempt"])
        [lost] = stage.log.entries("job.attempt_ended.v1")
        assert (1, "rig1", "lost") == (lost.data["attempt"], lost.data["miner_id"], lost.data["outcome"])
        await eventually(lambda: stage.log.count("miner.lost.v1") == 1, "the session lost")


async def test_a_stale_result_is_refused_and_not_paid(
    tmp_path: Path, database_url: str, amqp_url: str
) -> None:
    """A miner that fell silent hands in attempt 1 during and after attempt 2: refused, and not paid."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **QUICK) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        async with stage.rpc() as rpc, stage.rpc(key_of("rig1")) as rig1_rpc:
            silent = HandMiner(rig1_rpc, "rig1")
            assert "accepted" == (await silent.register())["status"]
            job_id = await stage.submit(rpc, "one", payload={"until": "enough"})
            assert "RUNNING" == (await silent.start(job_id))["state"]
            [submitted] = [e.data for e in stage.log.entries("job.submitted.v1")]
            stage.miner("rig2")
            await stage.noted(f"begun-{job_id}-2-rig2")
            for attempt, code in ((1, "STALE_ATTEMPT"), (2, "STALE_ATTEMPT")):
                assert code == (await silent.complete(submitted, attempt, mine=True))["code"]
            assert "STALE_ATTEMPT" == (await silent.fail(job_id))["code"]
            assert "STALE_ATTEMPT" == (await silent.release(job_id))["code"]
            stage.release("enough")
            await stage.ended([job_id])
            assert "CONFLICT_STATE" == (await silent.complete(submitted, 1, mine=True))["code"]
            assert "SESSION_NOT_LIVE" == (await silent.register())["code"]
        checked = await stage.check()
        [receipt] = checked.jobs[job_id].receipts
        assert "rig2" == receipt["provider"]
        again = ["job.attempt_ended", "job.requeued", "job.started", "job.completed"]
        assert ["job.submitted", "job.started", *again] == stage.log.topics(job_id)
