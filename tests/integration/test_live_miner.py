"""`/ws/miner` over real sockets: the whole life of a miner on one connection, and what it must not do."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from coordinator.application.ports import LogUnavailable, Page
from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import sign_statement
from tests.harness.live import LiveSocket, Message, live_socket, text_of
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench, an_edge, key_of
from tests.integration.test_edge_server import serving

RIG, OTHER, ALICE = key_of("rig"), key_of("other-rig"), key_of("alice")
RESULT = {"algorithm": "sha256", "digests": []}


class SocketMiner(LiveSocket):
    """One miner on one socket."""

    key = SigningKey.generate()

    async def ask(self, kind: str, **fields: Any) -> Message:
        """Send a command; its answer."""
        message_id = f"{kind}-{len(self.got)}"
        await self.say(kind, id=message_id, **fields)
        return (await self.until(lambda m: m.get("id") == message_id))[-1]

    async def register(self, **fields: Any) -> Message:
        body = {
            "capabilities": {"services": [SERVICE]},
            "concurrency": 4,
            "public_key": self.key.key_id,
            **fields,
        }
        answer = await self.ask("miner.register", **body)
        assert "accepted" == answer["status"], answer
        self.session = answer["session_id"]
        return answer

    async def assigned(self) -> Message:
        return (await self.until_type("job.assigned"))[-1]

    def result(self, offer: Message, **result: Any) -> dict[str, Any]:
        salt = os.urandom(16)
        now = time.time_ns() // 1_000_000
        statement = {
            "version": "1",
            "job_id": offer["job_id"],
            "attempt": offer["attempt"],
            "miner_id": "rig",
            "session_id": self.session,
            "service": offer["service"],
            "payload_digest": offer["payload_digest"],
            "result_digest": salted_digest(salt, result),
            "started_at_ms": now - 5,
            "completed_at_ms": now,
        }
        return {
            **claim(offer),
            "result": result,
            "result_salt": salt.hex(),
            "statement": sign_statement(self.key, statement),
        }


def names(offer: Message) -> dict[str, Any]:
    return {"job_id": offer["job_id"], "attempt": offer["attempt"]}


def claim(offer: Message) -> dict[str, Any]:
    return {**names(offer), "token": offer.get("token")}


class Scene(Bench):
    url: str

    @asynccontextmanager
    async def miner(self, key: str = RIG) -> AsyncIterator[SocketMiner]:  # type: ignore[override]
        async with live_socket(self.url, key, "/ws/miner") as ws:
            miner = SocketMiner(ws.connection)
            assert "welcome" == (await miner.next())["type"]
            yield miner


@asynccontextmanager
async def a_scene(folder: Path, **settings: Any) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(an_edge(folder, **settings))
        port = await stack.enter_async_context(serving(bench.app))
        scene = Scene(bench.coordinator, bench.app)
        scene.url = f"http://127.0.0.1:{port}"
        yield scene


@pytest.fixture(params=["embedded", "standard"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    settings: dict[str, Any] = {"offer_timeout_seconds": 2}
    if request.param == "standard":
        settings["database_url"] = request.getfixturevalue("database_url")
        settings["amqp_url"] = request.getfixturevalue("amqp_url")
    async with a_scene(tmp_path, **settings) as scene:
        yield scene


async def test_a_miners_whole_life(scene: Scene) -> None:
    """Register, get a job, claim it, report, hand in the result, get its promise; the client follows it."""
    async with scene.miner() as miner, live_socket(scene.url, ALICE) as client:
        await client.subscribe()
        registered = await miner.register()
        assert {"profile", "session_id", "heartbeat_interval_seconds", "position"} <= set(registered)
        job = await scene.submit(scene.alice)
        await miner.say("ready", slots=1)
        offer = await miner.assigned()
        assert (job["job_id"], 1, {"text": "hello"}) == (offer["job_id"], offer["attempt"], offer["payload"])
        assert "RUNNING" == (await miner.ask("job.start", **claim(offer)))["state"]
        beat = await miner.ask("miner.heartbeat", inflight=[names(offer)])
        assert ("ONLINE", []) == (beat["state"], beat["cancel"])
        await miner.say("job.progress", **names(offer), seq=1, text="half", offset=0, fraction=0.5)
        await client.until_type("tokens")
        done = await miner.ask("job.complete", **miner.result(offer, **RESULT))
        assert ("accepted", "COMPLETED") == (done["status"], done["state"])
        assert job["job_id"] == done["promise"]["job_id"]
        await client.until_type("result.ready")
        assert "half" == text_of(client.got, job["job_id"])
        assert "accepted" == (await miner.ask("miner.leave"))["status"]


async def test_no_more_is_assigned_than_there_are_slots(scene: Scene) -> None:
    """Each `ready` counts once; a declined job goes to another miner after the offer timeout."""
    async with scene.miner() as miner, scene.miner(OTHER) as other:
        await miner.register()
        jobs = {(await scene.submit(scene.alice))["job_id"] for _ in range(3)}
        await miner.say("ready", slots=2)
        first, second = await miner.assigned(), await miner.assigned()
        await miner.say("ping", id="after")
        assert "pong" == (await miner.next())["type"]
        assert "RUNNING" == (await miner.ask("job.start", **claim(first)))["state"]
        await miner.say("decline", **names(second))
        await other.register()
        await other.say("ready", slots=2)
        for offer in [await other.assigned(), await other.assigned()]:
            assert "NOT_OFFERED" == (await miner.ask("job.start", **claim(offer)))["code"]
            assert "RUNNING" == (await other.ask("job.start", **claim(offer)))["state"]
            jobs.remove(offer["job_id"])
        assert jobs == {first["job_id"]}
        assert "CONFLICT_STATE" == (await miner.ask("job.start", **claim(second)))["code"]


async def test_a_closed_socket_hands_back_what_was_not_claimed(scene: Scene) -> None:
    """An unclaimed job goes to another; a claimed one stays the session's, which comes back."""
    async with scene.miner() as miner:
        session = (await miner.register())["session_id"]
        for _ in range(2):
            await scene.submit(scene.alice)
        await miner.say("ready", slots=2)
        mine, lost = await miner.assigned(), await miner.assigned()
        assert "RUNNING" == (await miner.ask("job.start", **claim(mine)))["state"]
    async with scene.miner(OTHER) as other:
        await other.register()
        await other.say("ready", slots=5)
        assert lost["job_id"] == (await other.assigned())["job_id"]
    async with scene.miner() as miner:
        await miner.register(session_id=session)
        done = await miner.ask("job.complete", **miner.result(mine, **RESULT))
        assert "COMPLETED" == done["state"], done


async def test_a_job_that_is_not_claimed_in_time_goes_on(tmp_path: Path) -> None:
    """A miner that sits on an offer loses it after the offer timeout."""
    async with (
        a_scene(tmp_path, offer_timeout_seconds=0.5) as scene,
        scene.miner() as miner,
        scene.miner(OTHER) as other,
    ):
        await miner.register()
        await scene.submit(scene.alice)
        await miner.say("ready", slots=1)
        offer = await miner.assigned()
        await other.register()
        await other.say("ready", slots=1)
        assert offer["job_id"] == (await other.assigned())["job_id"]


async def test_hints_come_at_once(scene: Scene) -> None:
    """A cancelled job and a drain are told without waiting for the next heartbeat."""
    async with scene.miner() as miner:
        session = (await miner.register())["session_id"]
        job = await scene.submit(scene.alice)
        await miner.say("ready", slots=1)
        offer = await miner.assigned()
        await miner.ask("job.start", **claim(offer))
        await scene.alice.post(f"/v1/jobs/{job['job_id']}/cancel", json={})
        hint = (await miner.until_type("hint"))[-1]
        assert {"type": "hint", "hint": "cancel", **names(offer)} == hint
        assert 200 == (await scene.admin.post("/v1/miners/drain", json={"miner_id": "rig"})).status_code
        hint = (await miner.until_type("hint"))[-1]
        assert ("drain", session) == (hint["hint"], hint["session_id"])
        await miner.say("ready", slots=1)
        await scene.submit(scene.alice)
        assert "DRAINING" == (await miner.ask("miner.heartbeat"))["state"]
        assert "job.assigned" not in [m["type"] for m in miner.got[-2:]]


async def test_hints_go_on_after_the_log_was_out_of_reach(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that has fallen behind, and then can't read the log for a while, is told once it can."""
    events = scene.coordinator.live.events
    read, failed = events.read, asyncio.Event()

    async def read_in_vain(*arguments: Any) -> Page:
        if not failed.is_set():
            failed.set()
            raise LogUnavailable
        return await read(*arguments)

    async with scene.miner() as miner:
        await miner.register()
        job = await scene.submit(scene.alice)
        await miner.say("ready", slots=1)
        offer = await miner.assigned()
        await miner.ask("job.start", **claim(offer))
        monkeypatch.setattr("coordinator.application.live.events.MAX_PENDING", 0)
        monkeypatch.setattr(events, "read", read_in_vain)
        await scene.alice.post(f"/v1/jobs/{job['job_id']}/cancel", json={})
        hint = (await miner.until_type("hint"))[-1]
        assert {"type": "hint", "hint": "cancel", **names(offer)} == hint
        assert failed.is_set()


async def test_the_same_refusals_as_elsewhere(scene: Scene) -> None:
    """What is malformed, out of order, another's or a client's is refused with its code, and it goes on."""
    async with scene.miner() as miner, scene.miner(OTHER) as other:
        assert "MINER_NOT_FOUND" == (await miner.ask("job.start", **claim(NO_JOB)))["code"]
        await miner.register()
        await other.register()
        job = await scene.submit(scene.alice)
        await miner.say("ready", slots=1)
        offer = await miner.assigned()
        who = {"miner_id": "other-rig", "session_id": other.session}
        for kind, fields, code in (
            ("job.start", names(NO_JOB), "JOB_NOT_FOUND"),
            ("job.start", {**claim(offer), "attempt": 2}, "STALE_ATTEMPT"),
            ("job.start", {**claim(offer), **who}, "FORBIDDEN"),
            ("job.start", {"job_id": 7}, "INVALID_PAYLOAD"),
            ("job.submit", {"service": SERVICE, "payload": {}}, "FORBIDDEN"),
            ("job.cancel", {"job_id": job["job_id"]}, "FORBIDDEN"),
            ("job.explode", {}, "UNKNOWN_COMMAND"),
            ("ready", {"slots": -1}, "INVALID_PAYLOAD"),
            ("ready", {"slots": 10**9}, "INVALID_PAYLOAD"),
            ("ready", {}, "INVALID_PAYLOAD"),
            ("decline", {"job_id": "x", "attempt": 1}, "INVALID_PAYLOAD"),
            ("miner.heartbeat", {"inflight": "all"}, "INVALID_PAYLOAD"),
            ("miner.heartbeat", {"session_id": "a-session-long-gone"}, "SESSION_NOT_LIVE"),
            ("miner.register", {"capabilities": {}, "public_key": "k"}, "INVALID_PAYLOAD"),
            ("job.progress", {**names(offer), "seq": 1, "text": "early", "offset": 0}, "STALE_ATTEMPT"),
            ("job.progress", {**names(offer), "seq": 1, "text": "no place"}, "INVALID_PAYLOAD"),
        ):
            answer = await miner.ask(kind, **fields)
            assert ("answer", "refused", code) == (answer["type"], answer["status"], answer["code"]), kind
        for bad in ("nonsense", "[1]", '{"type": "ready", "slots": NaN}', '{"no": "type"}'):
            await miner.connection.send(bad)
            assert "INVALID_PAYLOAD" == (await miner.until_type("answer"))[-1]["code"]


NO_JOB = {"job_id": "01890a5d-ac96-774b-bcce-b302099a8057", "attempt": 1}


async def test_many_commands_at_once(scene: Scene) -> None:
    """A hundred commands without waiting are all answered, each with its id."""
    async with scene.miner() as miner:
        await miner.register()
        for number in range(100):
            await miner.say("miner.heartbeat", id=str(number))
        answers = [await miner.next() for _ in range(100)]
        assert {str(n) for n in range(100)} == {a["id"] for a in answers}
        assert {"accepted"} == {a["status"] for a in answers}


async def test_only_miners_may(scene: Scene) -> None:
    """A client's key is refused at the door, as a problem document."""
    with pytest.raises(InvalidStatus) as refused:
        async with live_socket(scene.url, ALICE, "/ws/miner"):
            pass
    assert 403 == refused.value.response.status_code
    assert "FORBIDDEN" == json.loads(refused.value.response.body or b"")["code"]


async def test_a_cut_connection_leaves_nothing(scene: Scene) -> None:
    """A socket that vanishes leaves no reader and no offer behind."""
    async with scene.miner() as miner:
        await miner.register()
        await scene.submit(scene.alice)
        await miner.say("ready", slots=1)
        offer = await miner.assigned()
        await miner.ask("job.start", **claim(offer))
        miner.connection.transport.abort()
    await eventually(lambda: not scene.coordinator.live.events.readers, "no readers left")
    async with asyncio.timeout(30):
        assert 200 == (await scene.alice.get("/v1/jobs")).status_code
