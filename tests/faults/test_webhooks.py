"""Real coordinators tell receivers, in both modes: whatever dies, each message arrives, under one id."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from coordinator.client import AsyncCoordinator, RequestRefused
from tests.faults.test_two_coordinators import Pair
from tests.harness.executor import SERVICE
from tests.harness.receiver import Got, Receiver, answer
from tests.harness.stage import ROOT, Stage, key_of
from tests.harness.waiting import eventually

QUICK = {"heartbeat_interval_seconds": 0.5, "heartbeat_timeout_seconds": 2, "webhook_allow_private": True}


@pytest.fixture(params=["embedded", "standard"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    urls: dict[str, str] = {}
    if request.param == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    return Stage(tmp_path, **urls, **QUICK)  # type: ignore[arg-type]


def verified(secret: str, got: Got) -> bool:
    return bool(standardwebhooks.Webhook(secret).verify(got.body, dict(got.headers)))


def told_of(got: Sequence[Got], type_: str) -> list[str]:
    """The jobs that messages of this type are about."""
    return [one.message["data"]["job_id"] for one in got if one.message["type"] == type_]


async def test_everything_that_is_told(stage: Stage) -> None:
    """Ends of jobs, callbacks over HTTP and AMQP, a lost miner, a fault: signed, and to those concerned."""
    with stage:
        async with Receiver() as jobs, Receiver() as callbacks, Receiver() as operators:
            stage.coordinator(dies=("never", 1))
            await stage.ready()
            rig = stage.miner("rig1", concurrency=2)
            await stage.registered("rig1")
            async with (
                stage.client() as alice,
                stage.client(ROOT) as root,
                stage.client(key_of("rig1")) as owner,
            ):
                mine = await alice.webhooks.create(f"{jobs.url}/alice")
                await root.webhooks.create(operators.url, events=["miner.lost", "audit.diverged"])
                theirs = await owner.webhooks.create(f"{jobs.url}/rig")
                done = await alice.submit(SERVICE, {"seconds": 0.01}, callback_url=f"{callbacks.url}/http")
                never = await alice.submit(SERVICE, {"until": "never"})
                await done.result()
                await never.cancel("enough")
                if stage.amqp_url:
                    async with stage.rpc() as rpc:
                        other = await stage.submit(
                            rpc, "a", payload={"seconds": 0.01}, callback_url=f"{callbacks.url}/amqp"
                        )
                        await stage.ended([other])
                fault = ("audit.diverged", "price", 3, "“3” for “2”")
                for _ in range(2):
                    await root.raise_alarm(*fault)
                rig.kill()
                await eventually(
                    lambda: {"miner.lost", "audit.diverged"} == {g.message["type"] for g in operators.got},
                    "operators are told",
                )
                await eventually(lambda: len(callbacks.got) == (2 if stage.amqp_url else 1), "callbacks")
                await eventually(lambda: told_of(jobs.got, "job.canceled"), "the cancel is told")
                await eventually(lambda: any(g.target == "/rig" for g in jobs.got), "the owner is told")

                assert [never.job_id] == told_of(jobs.got, "job.canceled")
                assert done.job_id in told_of(jobs.got, "job.completed")
                http = next(got for got in callbacks.got if got.target == "/http")
                assert done.job_id == http.message["data"]["job_id"]
                view = (await alice.http.ask_json("GET", f"/v1/jobs/{done.job_id}")) | {}
                assert view == http.message["data"]
                assert verified((await alice.webhooks.secret())["secret"], http)
                assert all(verified(mine["secret"], got) for got in jobs.got if got.target == "/alice")
                [lost] = [got for got in jobs.got if got.target == "/rig"]
                assert "rig1" == lost.message["data"]["miner_id"]
                assert verified(theirs["secret"], lost)
                assert 2 == len(operators.got)
                deliveries = [d async for d in alice.webhooks.deliveries(mine["webhook_id"])]
                assert {"DELIVERED"} == {d["state"] for d in deliveries}


async def test_hostile_fields(stage: Stage) -> None:
    """Private receivers and other nonsense are refused with a code, over HTTP and AMQP, and not kept."""
    with stage:
        stage.coordinator(dies=("never", 1), webhook_allow_private=False)
        await stage.ready()
        urls = (
            "http://hooks.example.org/",
            "https://127.0.0.1/",
            "https://[::ffff:169.254.169.254]/",
            "https://user:secret@hooks.example.org/",
            "https://hooks.example.org/\r\nX-Api-Key: a",
            "https://hooks.example.org/" + "x" * 3000,
        )
        async with stage.client() as alice, stage.client(key_of("rig1")) as rig:
            for url in urls:
                with pytest.raises(RequestRefused, match="INVALID_PAYLOAD: url") as refused:
                    await alice.webhooks.create(url)
                assert "secret" not in str(refused.value)
                with pytest.raises(RequestRefused, match="INVALID_PAYLOAD: callback_url"):
                    await alice.submit("checksum", {"text": "x"}, callback_url=url)
            nonsense: list[dict[str, Any]] = [{"events": []}, {"events": ["job.started"]}, {"label": "a\x01"}]
            for fields in nonsense:
                with pytest.raises(RequestRefused, match="INVALID_PAYLOAD"):
                    await alice.webhooks.create("https://hooks.example.org/", **fields)
            with pytest.raises(RequestRefused, match="FORBIDDEN"):
                await alice.webhooks.create("https://hooks.example.org/", events=["miner.lost"])
            made = await alice.webhooks.create("https://hooks.example.org/", idempotency_key="one")
            again = await alice.webhooks.create("https://hooks.example.org/", idempotency_key="one")
            assert (made["webhook_id"], made["secret"]) == (again["webhook_id"], again["secret"])
            for stranger in (rig, alice):
                key = made["webhook_id"] if stranger is rig else "01890a5d-ac96-774b-bcce-b302099a8057"
                for call in (stranger.webhooks.show, stranger.webhooks.secret, stranger.webhooks.remove):
                    with pytest.raises(RequestRefused, match="WEBHOOK_NOT_FOUND"):
                        await call(key)
            replays: list[dict[str, Any]] = [
                {},
                {"since": 1, "deliveries": [f"msg_{'a' * 32}"]},
                {"deliveries": ["x"]},
            ]
            for replay in replays:
                with pytest.raises(RequestRefused, match="INVALID_PAYLOAD"):
                    await alice.webhooks.replay(made["webhook_id"], **replay)
            assert 1 == len([hook async for hook in alice.webhooks.list()])
            assert [] == [job async for job in alice.jobs()]
        if stage.amqp_url:
            async with stage.rpc() as rpc:
                submit = {"service": "checksum", "payload": {"text": "x"}, "idempotency_key": "k"}
                answered = await rpc.call("job.submit", {**submit, "callback_url": urls[1]})
                assert "INVALID_PAYLOAD" == answered["code"]
                # Its answer would lie in a queue.
                answered = await rpc.call("webhook.create", {"url": "https://hooks.example.org/"})
                assert "refused" == answered["status"]


async def some_jobs(client: AsyncCoordinator, count: int) -> list[str]:
    """Jobs that need no miner to end."""
    jobs = [await client.submit(SERVICE, {"until": "never"}, idempotency_key=f"j{n}") for n in range(count)]
    await asyncio.gather(*(job.cancel() for job in jobs))
    return [job.job_id for job in jobs]


async def test_killed_between_commit_and_delivery(stage: Stage) -> None:
    """A coordinator that dies with messages stored and unsent sends them after its next start."""
    with stage:
        async with Receiver() as receiver:
            doomed = stage.coordinator(dies=("after-messages", 1))
            await stage.ready()
            async with stage.client(tries=30) as alice:
                await alice.webhooks.create(receiver.url)
                asked = asyncio.create_task(some_jobs(alice, 3))
                await eventually(lambda: doomed.ended is not None, "death after messages")
                assert (-signal.SIGKILL, []) == (doomed.ended, receiver.got)
                stage.coordinator(dies=("never", 1))
                jobs = await asked
                await eventually(
                    lambda: set(jobs) == set(told_of(receiver.got, "job.canceled")), "every job is told"
                )
                assert len({got.id for got in receiver.got}) == len(jobs)


async def test_killed_while_a_receiver_answers(stage: Stage) -> None:
    """A message under way at the death is sent again, under the same id."""
    with stage:
        hang = asyncio.Event()

        async def wait(_: asyncio.StreamWriter) -> None:
            await hang.wait()

        async with Receiver(play=wait) as receiver:
            doomed = stage.coordinator(dies=("never", 1))
            await stage.ready()
            async with stage.client(tries=30) as alice:
                await alice.webhooks.create(receiver.url)
                [job] = await some_jobs(alice, 1)
                await eventually(lambda: receiver.got, "it is under way")
                doomed.kill()
                stage.coordinator(dies=("never", 1))
                await eventually(lambda: len(receiver.got) == 2, "it is sent again")
                hang.set()
        assert [job, job] == told_of(receiver.got, "job.canceled")
        assert 1 == len({got.id for got in receiver.got})


async def test_two_coordinators(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """The one that leads tells each message once; after its death the other goes on where it was."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url, **QUICK) as stage:
        pair = Pair(stage)
        await pair.start()
        down = True
        async with (
            Receiver(lambda _: answer("503 Down") if down else answer()) as flaky,
            Receiver() as good,
            stage.client(coordinator="other", tries=30) as alice,
        ):
            await alice.webhooks.create(good.url)
            await alice.webhooks.create(flaky.url)
            before = await some_jobs(alice, 10)
            await eventually(lambda: len(good.got) == 10, "ten messages")
            await eventually(lambda: len(flaky.got) >= 10, "ten failures")
            pair.processes["one"].kill()
            down = False
            after = [await alice.submit(SERVICE, {"until": "never"}) for _ in range(5)]
            await asyncio.gather(*(job.cancel() for job in after))
            jobs = {*before, *(job.job_id for job in after)}
            await eventually(lambda: len(good.got) >= 15, "the other tells the rest")
            await eventually(
                lambda: jobs <= set(told_of(flaky.got, "job.canceled")[10:]), "what failed is tried again"
            )
        assert jobs == set(told_of(good.got, "job.canceled"))
        assert {1} == set(Counter(got.id for got in good.got).values())
