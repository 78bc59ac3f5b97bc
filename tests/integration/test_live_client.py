"""`/ws/client` and server-sent events over real sockets, on an embedded coordinator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from coordinator.edge.live import sockets
from tests.harness.cases import every
from tests.harness.live import event_stream, key_protocol, live_socket, text_of, told
from tests.harness.waiting import eventually
from tests.integration.edge_bench import Bench, an_edge, key_of
from tests.integration.test_edge_server import serving

ALICE, BOB, ROOT, RIG = (key_of(name) for name in ("alice", "bob", "root", "rig"))
RESULT = {"algorithm": "sha256", "digests": []}


class Scene(Bench):
    """A coordinator that is served at `url`."""

    url: str

    async def say(self, job_id: str, **report: Any) -> httpx.Response:
        """What the miner `rig` says of the first attempt."""
        body = {"attempt": 1, "seq": 1, **report}
        return await self.rig.post(f"/v1/miners/{job_id}/progress", json=body)


@asynccontextmanager
async def served(bench: Bench) -> AsyncIterator[Scene]:
    async with serving(bench.app) as port:
        scene = Scene(bench.coordinator, bench.app)
        scene.keys = bench.keys
        scene.url = f"http://127.0.0.1:{port}"
        yield scene


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with an_edge(tmp_path) as bench, served(bench) as scene:
        await scene.register()
        yield scene


# --- what is told ------------------------------------------------------------------------------------------
async def test_a_jobs_life_as_it_happens(scene: Scene) -> None:
    """States, progress and text of a job reach its client in order, and the last words before the end."""
    async with live_socket(scene.url, ALICE) as ws:
        await ws.subscribe()
        job = await scene.submit(scene.alice)
        offer = await scene.poll()
        job_id = job["job_id"]
        assert 200 == (await scene.say(job_id, text="Once ", offset=0)).status_code
        await ws.until_type("tokens")
        await scene.say(job_id, seq=2, text="upon", offset=5, fraction=0.5, note="writing")
        await scene.complete(offer, RESULT)
        got = (await ws.until_type("result.ready"), ws.got)[1]
    assert ["QUEUED", "RUNNING", "COMPLETED"] == [state for _, state in told(got)]
    assert "Once upon" == text_of(got, job_id)
    [progress] = [m for m in got if m["type"] == "progress"]
    assert (0.5, "writing", 1) == (progress["fraction"], progress["note"], progress["attempt"])
    assert "result.ready" == got[-1]["type"]
    positions = [position for position, _ in told(got)]
    assert sorted(set(positions)) == positions


async def test_another_client_sees_nothing_and_an_admin_all(scene: Scene) -> None:
    """Bob is told nothing of Alice's job, by "all" or by its id; the admin is told all."""
    async with live_socket(scene.url, BOB) as bob, live_socket(scene.url, ROOT) as root:
        await bob.subscribe()
        await root.subscribe()
        job = await scene.submit(scene.alice)
        offer = await scene.poll()
        await scene.say(job["job_id"], text="secret", offset=0)
        await scene.complete(offer, RESULT)
        assert "alice" == (await root.until_type("result.ready"))[-1]["client"]
        assert "secret" == text_of(root.got, job["job_id"])
        own = await scene.submit(scene.bob)
        await bob.until_type("state.changed")
        assert [own["job_id"]] == [m["job_id"] for m in bob.got if "job_id" in m]
    async with live_socket(scene.url, BOB) as bob:
        [answer] = (await bob.subscribe([job["job_id"], str(uuid4())]))[-1:]
        assert [] == answer["jobs"]
        assert ["JOB_NOT_FOUND"] * 2 == [refused["code"] for refused in answer["refused"]]
    hidden = await scene.bob.get(f"/v1/jobs/{job['job_id']}/events")
    assert (404, "JOB_NOT_FOUND") == (hidden.status_code, hidden.json()["code"])


async def test_a_late_watcher_begins_at_the_beginning(scene: Scene) -> None:
    """By its id a running job is told from its first event, with the text so far."""
    job = await scene.submit(scene.alice)
    await scene.poll()
    await scene.say(job["job_id"], text="Once upon a ", offset=0)
    async with live_socket(scene.url, ALICE) as ws:
        past = await ws.subscribe([job["job_id"]])
        assert ["QUEUED", "RUNNING"] == [state for _, state in told(past)]
        await ws.until_type("tokens")
        await scene.say(job["job_id"], seq=2, text="time", offset=12)
        await ws.until_type("tokens")
        assert "Once upon a time" == text_of(ws.got, job["job_id"])


async def test_attempts_that_fail_are_told(scene: Scene) -> None:
    """A failed attempt, the job queued again, and its cancellation come with what was wrong."""
    async with live_socket(scene.url, ALICE) as ws:
        await ws.subscribe()
        job = await scene.submit(scene.alice)
        await scene.poll()
        failed = {"attempt": 1, "error_code": "OUT_OF_MEMORY", "error_message": "12 GB"}
        await scene.rig.post(f"/v1/miners/{job['job_id']}/fail", json=failed)
        await scene.alice.post(f"/v1/jobs/{job['job_id']}/cancel", json={"reason": "enough"})
        got = (await ws.until(lambda m: m.get("state") == "CANCELED"), ws.got)[1]
    assert ["QUEUED", "RUNNING", "failed", "QUEUED", "CANCELED"] == [said for _, said in told(got)]
    errors = [m["error"] for m in got if "error" in m]
    assert [("OUT_OF_MEMORY", "12 GB"), ("CANCELED", "enough")] == [(e["code"], e["message"]) for e in errors]


# --- resuming ----------------------------------------------------------------------------------------------
async def test_resuming_has_neither_gaps_nor_doubles(scene: Scene) -> None:
    """Whoever comes back with the last position it had gets exactly what came after it, and then goes on."""
    jobs = [await scene.finish(scene.alice, RESULT) for _ in range(3)]
    await scene.finish(scene.bob, RESULT)
    async with live_socket(scene.url, ALICE, "/ws/client?from=0") as ws:
        whole = told(await ws.until_type("subscribed"))
    assert 9 == len(whole)
    for cut in (0, 1, 4, 8, 9):
        since = whole[cut - 1][0] if cut else 0
        async with live_socket(scene.url, ALICE) as ws:
            assert whole[cut:] == told(await ws.subscribe(**{"from": since}))
        async with live_socket(scene.url, ALICE) as ws:
            assert whole[cut:] == told(await ws.subscribe(jobs, **{"from": since}))
    async with live_socket(scene.url, ROOT) as root:
        everything = told(await root.subscribe(**{"from": 0}))
        assert set(whole) < set(everything)
        assert 12 == len(everything)
        job = await scene.submit(scene.alice)
        await root.until_type("state.changed")
        assert (job["position"], "QUEUED") == told(root.got)[-1]


async def test_a_past_that_is_longer_than_all_buffers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and buffers that are far too small lose nothing, while more keeps happening."""
    monkeypatch.setattr("coordinator.application.live.events.PAGE_EVENTS", 7)
    monkeypatch.setattr("coordinator.application.live.events.SCAN_POSITIONS", 11)
    monkeypatch.setattr("coordinator.application.live.events.MAX_PENDING", 3)
    body = {"service": "checksum", "payload": {"text": "x"}, "constraints": {"region": "nowhere"}}

    async def submit(number: int) -> int:
        answer = await (scene.bob if number % 3 == 0 else scene.alice).post("/v1/jobs", json=body)
        return int(answer.json()["position"]) if number % 3 else 0

    first = [await submit(number) for number in range(60)]
    async with live_socket(scene.url, ALICE) as ws, live_socket(scene.url, ROOT) as root:
        more = asyncio.gather(*(submit(number) for number in range(150)))
        await ws.subscribe(**{"from": 0})
        await root.subscribe(**{"from": 0})
        expected = sorted(filter(None, [*first, *await more]))
        last = await scene.submit(scene.alice)
        await ws.until(lambda m: m.get("position", 0) >= last["position"] and m["type"] == "state.changed")
        await root.until(lambda m: m.get("position", 0) >= last["position"] and m["type"] == "state.changed")
    assert [*expected, last["position"]] == [position for position, _ in told(ws.got)]
    assert 211 == len({position for position, _ in told(root.got)}) == len(told(root.got))


async def test_a_position_that_is_not_there_yet(scene: Scene) -> None:
    """A position beyond the log is refused; the position of an own write is fine, and skips up to it."""
    async with live_socket(scene.url, ALICE) as ws:
        [answer] = (await ws.subscribe(**{"from": 10**12}))[-1:]
        assert ("refused", "INVALID_PAYLOAD") == (answer["type"], answer["code"])
        job = (
            await scene.alice.post("/v1/jobs", json={"service": "checksum", "payload": {"text": "x"}})
        ).json()
        await ws.subscribe(**{"from": job["position"]})
        await scene.alice.post(f"/v1/jobs/{job['job_id']}/cancel", json={})
        await ws.until(lambda m: m.get("state") == "CANCELED")
    assert "QUEUED" not in [said for _, said in told(ws.got)]


# --- slow and hostile --------------------------------------------------------------------------------------
async def test_a_reader_that_never_reads_delays_nobody(scene: Scene) -> None:
    """While one socket's buffers are full, another gets every token at once, and in order."""
    job = await scene.submit(scene.alice)
    await scene.poll()
    async with live_socket(scene.url, ALICE, max_queue=1) as deaf, live_socket(scene.url, ALICE) as quick:
        deaf.connection.transport.pause_reading()
        await deaf.say("subscribe", jobs=[job["job_id"]])
        await quick.subscribe([job["job_id"]])
        length = 0
        for number in range(200):
            piece = f"{number:04}" * 5000
            await scene.say(job["job_id"], seq=number + 1, text=piece, offset=length)
            length += len(piece)
            await quick.until_type("tokens")
        assert length == len(text_of(quick.got, job["job_id"]))
        # The deaf one comes to its senses: it has a gap, and goes on with the end of the text.
        deaf.connection.transport.resume_reading()
        await deaf.until(lambda m: m["type"] == "tokens" and m["offset"] + len(m["text"]) == length)


async def test_a_reader_that_never_reads_is_let_go(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its buffers are full and stay so, the socket is closed and forgotten; resuming loses no event."""
    monkeypatch.setattr(sockets, "SEND_SECONDS", 0.3)
    monkeypatch.setattr(sockets, "CLOSE_SECONDS", 0.1)
    job = await scene.submit(scene.alice)
    offer = await scene.poll()
    async with live_socket(scene.url, ALICE, max_queue=1, close_timeout=0.1) as deaf:
        await deaf.subscribe()
        deaf.connection.transport.pause_reading()
        length = 0
        while scene.coordinator.live.events.readers:
            await scene.say(job["job_id"], seq=length + 1, text="x" * 60_000, offset=length)
            length += 60_000
            await asyncio.sleep(0)  # a request without a network lets nobody else run
            assert length < 2**28, "it takes everything"
        await scene.complete(offer, RESULT)
    async with live_socket(scene.url, ALICE) as back:
        past = await back.subscribe(**{"from": deaf.got[-1]["position"]})
    assert "COMPLETED" == told(past)[-1][1]


@every(
    "hostile",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"type": 7}',
        '{"type": "drop tables"}',
        '{"type": "subscribe"}',
        '{"type": "subscribe", "jobs": []}',
        '{"type": "subscribe", "jobs": "everything"}',
        '{"type": "subscribe", "jobs": ["not a uuid"]}',
        '{"type": "subscribe", "jobs": "all", "from": -1}',
        '{"type": "subscribe", "jobs": "all", "from": 1e30}',
        '{"type": "subscribe", "jobs": "all", "more": 1}',
        '{"type": "ping", "id": {"a": 1}}',
        '{"type": "ping", "nul": "\\u0000"}',
        '{"type": "ping", "half": "\\ud800"}',
        '{"type": "ping", "n": NaN}',
        '{"type": "ping", "deep": ' + "[" * 40 + "]" * 40 + "}",
        json.dumps({"type": "subscribe", "jobs": [str(uuid4()) for _ in range(1001)]}),
    ],
)
async def test_hostile_messages_are_refused_with_a_code(scene: Scene, hostile: str) -> None:
    """Whatever is sent, the answer is a coded refusal and the connection goes on."""
    async with live_socket(scene.url, ALICE) as ws:
        await ws.connection.send(hostile)
        refused = (await ws.until_type("refused"))[-1]
        assert refused["code"] in ("INVALID_PAYLOAD", "TOO_LARGE")
        await ws.say("ping", id="still there")
        assert "still there" == (await ws.until_type("pong"))[-1]["id"]


async def test_binary_and_oversized_messages(scene: Scene) -> None:
    """Binary is refused; a message over a MiB closes the connection with 1009."""
    async with live_socket(scene.url, ALICE) as ws:
        await ws.connection.send(b"\x00\xff")
        assert "INVALID_PAYLOAD" == (await ws.until_type("refused"))[-1]["code"]
        await ws.connection.send("x" * (2**20 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await ws.until_type("pong")
        assert closed.value.rcvd is not None
        assert 1009 == closed.value.rcvd.code


async def test_subscriptions_begin_and_end(scene: Scene) -> None:
    """After unsubscribing nothing more comes; all and single jobs do not mix; a repeat tells nothing anew."""
    job = await scene.submit(scene.alice)
    async with live_socket(scene.url, ALICE) as ws:
        first = await ws.subscribe([job["job_id"]], id="a")
        assert ("a", [job["job_id"]]) == (first[-1]["id"], first[-1]["jobs"])
        again = await ws.subscribe([job["job_id"]])
        assert ["subscribed"] == [m["type"] for m in again]
        assert "INVALID_PAYLOAD" == (await ws.subscribe("all"))[-1]["code"]
        await ws.say("unsubscribe", jobs=[job["job_id"]])
        await ws.until_type("unsubscribed")
        await scene.alice.post(f"/v1/jobs/{job['job_id']}/cancel", json={})
        await ws.subscribe("all")
        other = await scene.submit(scene.alice)
        await ws.until_type("state.changed")
    assert [(job["position"], "QUEUED"), (other["position"], "QUEUED")] == told(ws.got)


# --- who may -----------------------------------------------------------------------------------------------
async def test_keys_by_header_subprotocol_and_first_message(scene: Scene) -> None:
    """All three ways prove who one is."""
    async with live_socket(scene.url, ALICE) as ws:
        assert ("welcome", "alice") == ((hello := await ws.next())["type"], hello["name"])
    protocols = ["coordinator.v1", key_protocol(ALICE)]
    async with live_socket(scene.url, subprotocols=protocols) as ws:
        assert "alice" == (await ws.next())["name"]
        assert "coordinator.v1" == ws.connection.subprotocol
    async with live_socket(scene.url) as ws:
        await ws.say("hello", key=ROOT)
        assert ("root", "admin") == ((hello := await ws.next())["name"], hello["role"])


async def test_wrong_keys(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key is refused by a problem or a close code, which say which; silence is closed, too."""
    for key, status in ((RIG, 403), ("alice:wrong-secret", 401)):
        with pytest.raises(InvalidStatus) as refused:
            async with live_socket(scene.url, key):
                pass
        assert status == refused.value.response.status_code
        assert json.loads(refused.value.response.body or b"")["code"] in ("FORBIDDEN", "UNAUTHORIZED_KEY")
        with pytest.raises(InvalidStatus):
            async with live_socket(scene.url, subprotocols=["coordinator.v1", key_protocol(key)]):
                pass
    monkeypatch.setattr(sockets, "HELLO_SECONDS", 0.2)
    for first, code in (
        ({"type": "hello", "key": RIG}, 4403),
        ({"type": "hello", "key": "nobody:at-all-here"}, 4401),
        ({"type": "ping"}, 4401),
        (None, 4408),
    ):
        async with live_socket(scene.url) as ws:
            if first:
                await ws.connection.send(json.dumps(first))
            with pytest.raises(ConnectionClosed) as closed:
                await ws.next()
        assert closed.value.rcvd is not None
        assert code == closed.value.rcvd.code


async def test_pages_from_elsewhere(scene: Scene) -> None:
    """A browser's page from another origin may not open a socket, unless ALLOW_ORIGINS names it."""
    with pytest.raises(InvalidStatus) as refused:
        async with live_socket(scene.url, ALICE, origin="https://evil.example"):
            pass
    assert 403 == refused.value.response.status_code
    async with live_socket(scene.url, ALICE, origin=scene.url) as ws:
        assert "welcome" == (await ws.next())["type"]


# --- server-sent events ------------------------------------------------------------------------------------
async def test_server_sent_events_of_a_job(scene: Scene) -> None:
    """A job's stream has its whole life with text, positions as ids, ends with it, and then is 204."""
    job = await scene.submit(scene.alice)
    path = f"/v1/jobs/{job['job_id']}/events"
    got: list[tuple[str | None, dict[str, Any]]] = []
    async with event_stream(scene.url, ALICE, path) as events:
        got.append(await anext(events))
        offer = await scene.poll()
        await scene.say(job["job_id"], text="é\nè", offset=0)
        async for event in events:
            got.append(event)
            if event[1]["type"] == "tokens":
                await scene.complete(offer, RESULT)
    assert "é\nè" == text_of([m for _, m in got], job["job_id"])
    messages = [m for _, m in got]
    assert ["QUEUED", "RUNNING", "COMPLETED"] == [said for _, said in told(messages)]
    ids = [event_id for event_id, message in got if "state" in message]
    assert [str(position) for position, _ in told(messages)] == ids
    assert {None} == {event_id for event_id, message in got if message["type"] == "tokens"}
    over = await scene.alice.get(path, headers={"Last-Event-ID": str(ids[-1])})
    assert 204 == over.status_code
    async with event_stream(scene.url, ALICE, path, **{"Last-Event-ID": str(ids[0])}) as events:
        assert ["RUNNING", "COMPLETED"] == [said for _, said in told([m async for _, m in events])]


async def test_server_sent_events_of_all_jobs(scene: Scene) -> None:
    """Own jobs only, resumed by Last-Event-ID, with headers that let no proxy keep them."""
    await scene.finish(scene.bob, RESULT)
    job_id = await scene.finish(scene.alice, RESULT)
    async with event_stream(scene.url, ALICE, "/v1/events?from=0") as events:
        got = [await anext(events) for _ in range(4)]
    assert ["QUEUED", "RUNNING", "COMPLETED"] == [said for _, said in told([m for _, m in got])]
    assert {job_id} == {m["job_id"] for _, m in got if "job_id" in m}
    since = {"Last-Event-ID": str(got[1][0])}
    async with event_stream(scene.url, ALICE, "/v1/events?from=0", **since) as events:
        assert "COMPLETED" == (await anext(events))[1]["state"]
    async with (
        httpx.AsyncClient(base_url=scene.url, headers={"X-Api-Key": ALICE}) as http,
        http.stream("GET", "/v1/events") as response,
    ):
        assert "text/event-stream" in response.headers["content-type"]
        assert "no-cache" in response.headers["cache-control"]
        assert "no" == response.headers["x-accel-buffering"]
        assert int(response.headers["x-position"]) >= int(got[-1][0] or 0)


@pytest.mark.parametrize("query", ["from=-1", "from=x", "from=1000000000000", "from=9" + "9" * 30])
async def test_impossible_positions_of_streams(scene: Scene, query: str) -> None:
    """Both streams refuse a position that is none, before they begin."""
    job = await scene.submit(scene.alice)
    for path in ("/v1/events", f"/v1/jobs/{job['job_id']}/events"):
        answer = await scene.alice.get(f"{path}?{query}")
        assert (422, "INVALID_PAYLOAD") == (answer.status_code, answer.json()["code"])


# --- what miners say ---------------------------------------------------------------------------------------
async def test_progress_is_taken_from_the_holder_alone(scene: Scene) -> None:
    """Another miner, another attempt, another session, and a job that nobody runs: refused, and not told."""
    job = await scene.submit(scene.alice)
    job_id = job["job_id"]
    async with live_socket(scene.url, ALICE) as ws:
        await ws.subscribe()
        assert 409 == (await scene.say(job_id, text="early", offset=0)).status_code
        offer = await scene.poll()
        await scene.register("other-rig")
        body = {"attempt": 1, "seq": 1, "text": "lie", "offset": 0}
        answers = [
            await scene.other_rig.post(f"/v1/miners/{job_id}/progress", json=body),
            await scene.other_rig.post(f"/v1/miners/{job_id}/progress", json={**body, "miner_id": "rig"}),
            await scene.say(job_id, text="lie", offset=0, attempt=2),
            await scene.say(job_id, text="lie", offset=0, session_id="another-session"),
            await scene.say(str(uuid4()), text="lie", offset=0),
            await scene.alice.post(f"/v1/miners/{job_id}/progress", json=body),
            await scene.say(job_id, text="lie"),
            await scene.say(job_id, fraction=2),
            await scene.say(job_id, text="x" * 70_000, offset=0),
        ]
        assert [409, 403, 409, 409, 409, 403, 422, 422, 422] == [answer.status_code for answer in answers]
        assert 200 == (await scene.say(job_id, text="truth", offset=0)).status_code
        await scene.complete(offer, RESULT)
        await ws.until_type("result.ready")
        assert 200 == (await scene.say(job_id, seq=2, text=", and last words", offset=5)).status_code
        await ws.until_type("tokens")
    assert "truth, and last words" == text_of(ws.got, job_id)


async def test_a_stop_says_so(tmp_path: Path) -> None:
    """A coordinator that stops closes sockets and streams at once, so that they come back elsewhere."""
    async with (
        an_edge(tmp_path) as bench,
        served(bench) as scene,
        live_socket(scene.url, ALICE) as ws,
        event_stream(scene.url, ALICE, "/v1/events") as events,
    ):
        await ws.next()
        await anext(events)
        scene.coordinator.end_waits()
        with pytest.raises(ConnectionClosed) as closed:
            await ws.next()
        assert closed.value.rcvd is not None
        assert 1012 == closed.value.rcvd.code
        async with asyncio.timeout(20):
            assert [] == [event async for event in events]


async def test_a_connection_that_is_cut_leaves_nothing(scene: Scene) -> None:
    """Sockets that vanish without a word are forgotten with all that they followed."""
    live = scene.coordinator.live
    for _ in range(3):
        async with live_socket(scene.url, ALICE) as ws:
            await ws.subscribe()
            ws.connection.transport.abort()
    await eventually(lambda: not live.events.readers and not live.progress.readers, "no readers left")


async def test_a_revoked_key_ends_its_connections(scene: Scene) -> None:
    """Sockets and streams that were opened with a key end when it is revoked, and nobody else's."""
    made = await scene.admin.post("/v1/admin/keys", json={"name": "carol", "role": "client"})
    assert 201 == made.status_code, made.text
    key, key_id = made.json()["key"], made.json()["key_id"]
    async with (
        live_socket(scene.url, key) as carol,
        live_socket(scene.url, ALICE) as alice,
        event_stream(scene.url, key, "/v1/events") as events,
    ):
        await carol.next()
        await anext(events)
        revoked = await scene.admin.post(f"/v1/admin/keys/{key_id}/revoke", json={})
        assert 200 == revoked.status_code, revoked.text
        with pytest.raises(ConnectionClosed) as closed:
            await carol.next()
        assert closed.value.rcvd is not None
        assert 4401 == closed.value.rcvd.code
        async with asyncio.timeout(20):
            assert [] == [event async for event in events]
        await alice.say("ping")
        await alice.until_type("pong")


async def test_messages_count_as_requests(tmp_path: Path) -> None:
    """Opening sockets and subscribing come out of the key's budget, and wrong keys out of the address's."""
    limits = {"rate_limit_requests": 4, "rate_limit_failures": 2, "rate_limit_window_seconds": 600}
    async with an_edge(tmp_path, **limits) as bench, served(bench) as scene:
        async with live_socket(scene.url, ALICE) as ws:
            for _ in range(3):
                await ws.subscribe()
                await ws.say("unsubscribe", jobs="all")
            await ws.say("ping")
            await ws.until_type("pong")
        codes = [m["code"] for m in ws.got if m["type"] == "refused"]
        assert ["RATE_LIMITED"] * 3 == codes
        for status in (4401, 4401, 4429):
            async with live_socket(scene.url) as ws:
                await ws.say("hello", key="bob:a-guess-of-mine")
                with pytest.raises(ConnectionClosed) as closed:
                    await ws.next()
            assert closed.value.rcvd is not None
            assert status == closed.value.rcvd.code
