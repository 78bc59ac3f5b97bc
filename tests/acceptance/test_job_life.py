"""What can happen to a job besides being done: cancelled, expired, failed, handed back, asked for twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from coordinator.dev.servers import PostgresServer, RabbitMQServer
from coordinator.wire.answers import AnswerJson
from tests.harness.hand import HandMiner
from tests.harness.stage import BOB, ROOT, Stage, key_of
from tests.harness.waiting import eventually

NOBODY_THERE = {"region": "nowhere"}


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMQServer, postgres: PostgresServer
) -> Iterator[Stage]:
    """A coordinator and a miner with two slots, for all tests here; at the end the invariants hold."""
    amqp_url, database_url = rabbitmq.new_vhost(), postgres.new_database()
    settings = {"heartbeat_interval_seconds": 0.5, "heartbeat_timeout_seconds": 15}
    folder = tmp_path_factory.mktemp("life")
    with Stage(folder, database_url=database_url, amqp_url=amqp_url, **settings) as stage:
        stage.begin(rig1={"concurrency": 2})
        yield stage
        asyncio.run(stage.check())
    rabbitmq.drop_vhost(amqp_url)
    postgres.drop_database(database_url)


async def test_cancel_while_queued(stage: Stage) -> None:
    """A queued job that is cancelled is never started; a repeat gets the first answer."""
    async with stage.rpc() as rpc:
        job_id = await stage.submit(rpc, "cancel-queued", constraints=NOBODY_THERE)
        for _ in range(2):
            answer = await rpc.call("job.cancel", {"job_id": job_id, "reason": "changed my mind"})
            assert ("accepted", "CANCELED") == (answer["status"], answer["state"])
    assert ["job.submitted", "job.canceled"] == stage.log.topics(job_id)


async def test_cancel_while_running(stage: Stage) -> None:
    """A running job that is cancelled stops on its miner, whose slot is then free again."""
    async with stage.rpc() as rpc:
        job_id = await stage.submit(rpc, "cancel-running", payload={"until": "never"})
        await stage.noted(f"begun-{job_id}-1-rig1")
        assert "CANCELED" == (await rpc.call("job.cancel", {"job_id": job_id}))["state"]
        await stage.noted(f"stopped-{job_id}-1-rig1")
        both = [await stage.submit(rpc, f"both-slots-{n}", payload={"until": "both"}) for n in range(2)]
        for again in both:
            await stage.noted(f"begun-{again}-1-rig1")
        stage.release("both")
        await stage.ended(both)
    assert ["job.submitted", "job.started", "job.canceled"] == stage.log.topics(job_id)


async def test_anothers_job_can_not_be_cancelled(stage: Stage) -> None:
    """Another client's job looks as if it were not there; an admin may cancel it."""
    async with stage.rpc() as alice, stage.rpc(BOB) as bob, stage.rpc(ROOT) as root:
        job_id = await stage.submit(alice, "not-bobs", constraints=NOBODY_THERE)
        assert "JOB_NOT_FOUND" == (await bob.call("job.cancel", {"job_id": job_id}))["code"]
        assert "CANCELED" == (await root.call("job.cancel", {"job_id": job_id}))["state"]


async def test_expiry_while_queued(stage: Stage) -> None:
    """A job that nobody could do in its time to live expires."""
    async with stage.rpc() as rpc:
        job_id = await stage.submit(rpc, "expires", constraints=NOBODY_THERE, ttl_seconds=1)
        await stage.ended([job_id])
    assert ["job.submitted", "job.expired"] == stage.log.topics(job_id)


async def test_too_many_failures(stage: Stage) -> None:
    """A job that fails retryably is tried `max_attempts` times and has failed then."""
    async with stage.rpc() as rpc:
        job_id = await stage.submit(rpc, "fails", payload={"fail": "retryable"}, max_attempts=3)
        await stage.ended([job_id])
    once = ["job.started", "job.attempt_ended"]
    topics = ["job.submitted", *once, "job.requeued", *once, "job.requeued", *once, "job.failed"]
    assert topics == stage.log.topics(job_id)


async def test_final_failure(stage: Stage) -> None:
    """A failure for good is one miner's word: the only miner has to say it at each attempt."""
    async with stage.rpc() as rpc:
        job_id = await stage.submit(rpc, "fails-for-good", payload={"fail": "final"}, max_attempts=2)
        await stage.ended([job_id])
    once = ["job.started", "job.attempt_ended"]
    topics = ["job.submitted", *once, "job.requeued", *once, "job.failed"]
    assert topics == stage.log.topics(job_id)


async def test_drain(stage: Stage) -> None:
    """A drained miner finishes what it holds, gets nothing new, and leaves."""
    async with stage.rpc() as rpc, stage.rpc(ROOT) as root:
        miner = stage.miner("rig2", region="drained")
        there = {"region": "drained"}
        held = await stage.submit(rpc, "held", payload={"until": "drained"}, constraints=there)
        await stage.noted(f"begun-{held}-1-rig2")
        for _ in range(2):
            answer = await root.call("miner.drain", stage.session("rig2"))
            assert ("accepted", "DRAINING") == (answer["status"], answer["state"])
        later = await stage.submit(rpc, "later", constraints=there)
        stage.release("drained")
        await stage.ended([held])
        await eventually(lambda: miner.ended is not None, "the miner gone")
        assert 0 == miner.ended
        assert ["job.submitted"] == stage.log.topics(later)
        stage.miner("rig3", region="drained")
        await stage.ended([later])
    [left] = [e for e in stage.log.entries("miner.left.v1") if e.data["miner_id"] == "rig2"]
    assert left.position > stage.log.entries("job.completed.v1", job_id=held)[0].position


async def test_a_drain_ends_with_its_session(stage: Stage) -> None:
    """A miner that died before it heard of its drain works again when it comes back."""
    async with stage.rpc() as rpc, stage.rpc(ROOT) as root:
        doomed = stage.miner("rig6", region="again")
        await stage.registered("rig6")
        doomed.kill()
        assert "DRAINING" == (await root.call("miner.drain", stage.session("rig6")))["state"]
        head = stage.log.head()
        await eventually(lambda: stage.log.positions()["dispatcher"] >= head, "the hint sent")
        again = stage.miner("rig6", region="again")
        for n in range(3):
            job_id = await stage.submit(rpc, f"again-{n}", constraints={"region": "again"})
            await stage.ended([job_id], 30)
        assert again.ended is None
        assert 0 == await asyncio.to_thread(again.stop)


async def test_a_miner_that_stops_hands_back(stage: Stage) -> None:
    """A miner told to stop hands back what it can't finish; that is no failed attempt."""
    async with stage.rpc() as rpc:
        miner = stage.miner("rig4", region="stopped", grace_seconds=0.0)
        job_id = await stage.submit(
            rpc,
            "handed-back",
            payload={"until": "taken over"},
            constraints={"region": "stopped"},
            max_attempts=1,
        )
        await stage.noted(f"begun-{job_id}-1-rig4")
        assert 0 == await asyncio.to_thread(miner.stop)
        stage.miner("rig5", region="stopped")
        await stage.noted(f"begun-{job_id}-2-rig5")
        stage.release("taken over")
        await stage.ended([job_id])
    topics = ["job.submitted", "job.started", "job.attempt_ended", "job.requeued"]
    assert [*topics, "job.started", "job.completed"] == stage.log.topics(job_id)
    [ended] = stage.log.entries("job.attempt_ended.v1", job_id=job_id)
    assert "released" == ended.data["outcome"]


async def test_repeats_get_the_first_answer(stage: Stage) -> None:
    """Every command, sent again after it took effect, is answered as at first and leaves no event."""
    async with stage.rpc() as rpc, stage.rpc(key_of("rig6")) as by_hand:
        miner = HandMiner(by_hand, "rig6")
        first = [await miner.register() for _ in range(2)]
        assert first[0] == first[1]
        assert {"accepted"} == {a["status"] for a in first}
        command = {"service": "rehearsal", "payload": {"n": 1}, "constraints": {"region": "by-hand"}}
        command["idempotency_key"] = "asked for twice"
        submitted = [await rpc.call("job.submit", command) for _ in range(2)]
        assert submitted[0] == submitted[1]
        job_id = submitted[0]["job_id"]
        stage.accepted.add(job_id)
        [job] = [e.data for e in stage.log.entries("job.submitted.v1", job_id=job_id)]
        other = await rpc.call("job.submit", {**command, "payload": {"n": 2}})
        assert "IDEMPOTENCY_MISMATCH" == other["code"]
        steps: list[Callable[[str], Awaitable[AnswerJson]]] = [
            miner.start,
            miner.release,
            lambda job_id: miner.start(job_id, 2),
            lambda job_id: miner.fail(job_id, 2),
        ]
        for does in steps:
            answers = [await does(job_id) for _ in range(2)]
            assert answers[0] == answers[1]
            assert "accepted" == answers[0]["status"]
        completed = [await miner.complete(job, 3, done=True) for _ in range(3)]
        assert completed[0] == completed[1] == completed[2]
        assert "COMPLETED" == completed[0]["state"]
        assert "accepted" == (await miner.start(job_id, 3))["status"]
    topics = ["job.submitted", "job.started", "job.attempt_ended", "job.requeued", "job.started"]
    topics += ["job.attempt_ended", "job.requeued", "job.started", "job.completed"]
    assert topics == stage.log.topics(job_id)


async def test_a_payload_may_look_like_a_reference(stage: Stage) -> None:
    """`{"blob": …}` is a payload like any other: what stands for a large one is told by its digest."""
    async with stage.rpc() as rpc:
        jobs = [
            await stage.submit(rpc, f"blob-{n}", payload={"blob": value})
            for n, value in enumerate(["not a reference", 5, None, {"a": 1}])
        ]
        await stage.ended(jobs)
        await stage.ready()
    assert {"COMPLETED"} == {stage.log.ended()[job_id] for job_id in jobs}


async def test_a_new_session_gives_up_the_old_ones_work(stage: Stage) -> None:
    """A miner that registers anew has lost what its old session held; the old one's word counts no more."""
    async with stage.rpc() as rpc, stage.rpc(key_of("rig6")) as by_hand:
        old, new = HandMiner(by_hand, "rig6"), HandMiner(by_hand, "rig6")
        await old.register()
        job_id = await stage.submit(rpc, "two sessions", constraints={"region": "by-hand"})
        [job] = [e.data for e in stage.log.entries("job.submitted.v1", job_id=job_id)]
        assert "accepted" == (await old.start(job_id))["status"]
        await new.register()
        await eventually(lambda: "job.requeued" in stage.log.topics(job_id), "queued again")
        assert "STALE_ATTEMPT" == (await old.complete(job, 1))["code"]
        assert "SESSION_NOT_LIVE" == (await old.start(job_id, 2))["code"]
        assert "COMPLETED" == (await new.complete(job, 2))["state"]
