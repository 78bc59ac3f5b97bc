"""Progress and live events between processes: two coordinators on one RabbitMQ and one Postgres."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from coordinator.wire.amqp.rpc import AmqpRpc
from coordinator.wire.limits import MAX_PROGRESS_TEXT
from tests.harness.hand import HandMiner
from tests.harness.live import LiveSocket, event_stream, live_socket, text_of, told
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench, an_edge, key_of
from tests.integration.test_edge_server import serving

SIGNING_SEED = "5a" * 32
EXCHANGE = "coordinator.progress"
RESULT = {"algorithm": "sha256", "digests": []}
ALICE, BOB, RIG = (key_of(name) for name in ("alice", "bob", "rig"))


@dataclass
class Place:
    """One coordinator of the two."""

    bench: Bench
    url: str


@dataclass
class Both:
    a: Place
    b: Place
    amqp_url: str


@pytest.fixture
async def both(tmp_path: Path, database_url: str, amqp_url: str) -> AsyncIterator[Both]:
    settings: dict[str, Any] = {
        "database_url": database_url,
        "amqp_url": amqp_url,
        "receipt_signing_key_hex": SIGNING_SEED,
        "blob_store": str(tmp_path / "blobs"),
    }
    async with AsyncExitStack() as stack:
        places: list[Place] = []
        for name in "ab":
            bench = await stack.enter_async_context(an_edge(tmp_path / name, **settings))
            port = await stack.enter_async_context(serving(bench.app))
            places.append(Place(bench, f"http://127.0.0.1:{port}"))
        a, b = places
        yield Both(a, b, amqp_url)


@asynccontextmanager
async def by_hand(both: Both, key: str = RIG) -> AsyncIterator[Voice]:
    """A miner over AMQP whose progress is published by hand."""
    async with AmqpRpc(both.amqp_url, key) as rpc:
        await rpc.connection()
        yield Voice(rpc, HandMiner(rpc, key.partition(":")[0], services=(SERVICE,)))


class Voice:
    def __init__(self, rpc: AmqpRpc, miner: HandMiner) -> None:
        self.rpc = rpc
        self.miner = miner

    async def say(self, job_id: str, *, client: str = "alice", attempt: int = 1, **report: Any) -> None:
        key = f"{client}.{report.pop('route', job_id)}"
        body = {**self.miner.names(job_id, attempt), "seq": 1, **report}
        assert await self.rpc.tell("job.progress", body, exchange=EXCHANGE, routing_key=key)


async def running(both: Both, voice: Voice) -> str:
    """A job of Alice's that this miner runs."""
    answer = await both.b.bench.alice.post("/v1/jobs", json={"service": SERVICE, "payload": {"text": "x"}})
    job_id: str = answer.json()["job_id"]
    assert "accepted" == (await voice.miner.register())["status"]
    started = await voice.miner.start(job_id)
    assert "accepted" == started["status"], started
    return job_id


async def test_tokens_cross_processes_in_order(both: Both) -> None:
    """A client at A gets what a miner says over AMQP, by WebSocket and as server-sent events, in order."""
    async with (
        by_hand(both) as voice,
        live_socket(both.a.url, ALICE) as ws,
        live_socket(both.a.url, BOB) as bob,
    ):
        await ws.subscribe()
        await bob.subscribe()
        job_id = await running(both, voice)
        async with event_stream(both.a.url, ALICE, f"/v1/jobs/{job_id}/events") as events:
            assert "QUEUED" == (await anext(events))[1]["state"]
            while (await anext(events))[1]["type"] != "subscribed":
                pass
            await voice.say(job_id, seq=1, fraction=0.0, note="begun")
            await ws.until_type("progress")
            expected = ""
            for number in range(100):
                piece = f"token {number} é\n"
                await voice.say(job_id, seq=number + 2, text=piece, offset=len(expected))
                expected += piece
            messages = []
            async for _, message in events:
                messages.append(message)
                if len(text_of(messages, job_id)) == len(expected):
                    break
        assert expected == text_of(messages, job_id)
        await ws.until(lambda m: m["type"] == "tokens" and m["offset"] + len(m["text"]) == len(expected))
        assert expected == text_of(ws.got, job_id)
        await bob.say("ping")
        await bob.until_type("pong")
        assert ["welcome", "subscribed", "pong"] == [m["type"] for m in bob.got]


async def test_nothing_is_believed_of_who_does_not_hold_the_attempt(both: Both) -> None:
    """Wrong session, attempt, miner, job in the key, signature or form: nobody is told, and it goes on."""
    async with (
        by_hand(both) as voice,
        by_hand(both, key_of("other-rig")) as other,
        live_socket(both.a.url, ALICE) as ws,
    ):
        await ws.subscribe()
        job_id = await running(both, voice)
        lie: dict[str, Any] = {"text": "lie", "offset": 0}
        await other.say(job_id, **lie)
        await other.say(job_id, **lie, miner_id="rig", session_id=voice.miner.session)
        await voice.say(job_id, attempt=2, **lie)
        await voice.say(job_id, session_id="session-of-another", **lie)
        await voice.say(str(uuid4()), route=job_id, **lie)
        await voice.say(job_id, text="lie")
        await voice.say(job_id, fraction=7)
        await voice.say(job_id, text="x" * (MAX_PROGRESS_TEXT + 1), offset=0)
        no_mapping: Any = ["no", 1, {}]
        await voice.rpc.tell("job.progress", no_mapping, exchange=EXCHANGE, routing_key=f"alice.{job_id}")
        forged = {
            "sender": "x",
            "client": "alice",
            "items": [{"job_id": job_id, "attempt": 1, "seq": 1, **lie}],
        }
        for kind in ("progress.relay", "progress.ask", "job.cancel", ""):
            await voice.rpc.tell(kind, forged, exchange=EXCHANGE, routing_key=f"alice.{job_id}")
        wrong_key = AmqpRpc(both.amqp_url, "rig:another-secret")
        async with wrong_key as rpc:
            await rpc.connection()
            body = {**voice.miner.names(job_id, 1), "seq": 1, **lie}
            await rpc.tell("job.progress", body, exchange=EXCHANGE, routing_key=f"alice.{job_id}")
        await voice.say(job_id, seq=2, text="truth", offset=0)
        await ws.until_type("tokens")
        assert "truth" == text_of(ws.got, job_id)


async def test_a_miner_that_speaks_http_to_the_other_process(both: Both) -> None:
    """What is posted to B reaches a client at A; one who comes late gets the text from the beginning."""
    rig = both.b.bench
    await rig.register()
    job = await rig.submit(rig.alice)
    offer = await rig.poll()
    job_id = job["job_id"]

    async def say(seq: int, text: str, offset: int) -> None:
        body = {"attempt": 1, "seq": seq, "text": text, "offset": offset}
        answer = await rig.rig.post(f"/v1/miners/{job_id}/progress", json=body)
        assert 200 == answer.status_code, answer.text

    await say(1, "Once upon ", 0)
    async with live_socket(both.a.url, ALICE) as late:
        await late.subscribe([job_id])
        await late.until_type("tokens")
        await say(2, "a time", 10)
        await late.until_type("tokens")
        assert "Once upon a time" == text_of(late.got, job_id)
        await rig.complete(offer, RESULT)
        await late.until_type("result.ready")
        assert ["QUEUED", "RUNNING", "COMPLETED"] == [said for _, said in told(late.got)]


async def test_a_late_watcher_asks_the_miner(both: Both) -> None:
    """Nobody watched and nothing was kept: the miner is asked for its text so far, and sends it."""
    async with by_hand(both) as voice:
        job_id = await running(both, voice)
        connection = await voice.rpc.connection()
        channel = await connection.channel()
        hints = await channel.get_queue("miner.rig")
        await voice.say(job_id, text="nobody hears ", offset=0)
        async with live_socket(both.a.url, ALICE) as ws:
            await ws.say("subscribe", jobs=[job_id])
            async with asyncio.timeout(30):
                hint = None
                while hint is None:
                    hint = await hints.get(no_ack=True, fail=False)
            assert {"hint": "progress", "job_id": job_id, "attempt": 1} == json.loads(hint.body)
            await voice.say(job_id, seq=3, text="nobody hears this", offset=0, whole=True)
            await ws.until_type("tokens")
            assert "nobody hears this" == text_of(ws.got, job_id)


async def test_only_what_is_watched_is_bound(both: Both) -> None:
    """Bindings come with watchers and go with them; a process without watchers hears nothing."""
    job = await both.a.bench.submit(both.a.bench.alice)

    wire: Any = both.a.bench.coordinator.live.progress._wire

    def bound() -> set[str]:
        return {".".join(str(word or "*") for word in topic) for topic in wire._bound}

    async with live_socket(both.a.url, ALICE) as ws, live_socket(both.a.url, ALICE) as other:
        await ws.subscribe()
        await other.subscribe([job["job_id"]])
        single = f"*.{job['job_id']}"
        await eventually(lambda: bound() == {"alice.*", single}, "both bound")
        await ws.say("unsubscribe", jobs="all")
        await ws.until_type("unsubscribed")
        await eventually(lambda: bound() == {single}, "one binding")
    await eventually(lambda: not bound(), "no binding")


async def test_the_same_events_at_both(both: Both) -> None:
    """Whichever process a client asks, it is told the same events at the same positions, past and present."""
    async with live_socket(both.a.url, ALICE) as a, live_socket(both.b.url, ALICE) as b:
        await a.subscribe()
        await b.subscribe()
        jobs = [
            (
                await place.bench.alice.post("/v1/jobs", json={"service": SERVICE, "payload": {"text": "x"}})
            ).json()
            for place in (both.a, both.b) * 5
        ]
        last = max(job["position"] for job in jobs)

        async def heard(ws: LiveSocket) -> list[tuple[int, str]]:
            await ws.until(lambda m: m["type"] == "state.changed" and m["position"] >= last)
            return told(ws.got)

        live = await heard(a)
        assert sorted((job["position"], "QUEUED") for job in jobs) == live == await heard(b)
        async with live_socket(both.b.url, ALICE) as again:
            assert live == told(await again.subscribe(**{"from": 0}))
