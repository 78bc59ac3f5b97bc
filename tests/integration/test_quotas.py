"""Quotas and expiry in a whole coordinator: without servers, and on Postgres and RabbitMQ."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from coordinator.application.commands.handlers.jobs import bodies, handler
from coordinator.application.ports import Clock
from coordinator.application.quotas import expiry as expiries
from coordinator.application.quotas.expiry import Ages, Expiry
from coordinator.application.quotas.usage import MIN_BLOB_BYTES
from coordinator.projections.projector import differences
from coordinator.wire.topology import HEARTBEATS_QUEUE
from tests.harness.waiting import eventually
from tests.integration.edge_bench import SERVICE, Bench, an_edge
from tests.integration.test_inbox import Sender

JOB = {"service": SERVICE, "payload": {"text": "hello"}}
HOUR = 3_600_000
MODES = ["embedded", "standard"]


@pytest.fixture(params=MODES)
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a mode."""
    urls: dict[str, Any] = {}
    if request.param == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    return {"directory": tmp_path, "expiry_interval_seconds": 3600, **urls}


async def quota_of(edge: Bench, client: httpx.AsyncClient | None = None) -> dict[str, Any]:
    answer = await (client or edge.alice).get("/v1/quota")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def set_quota(edge: Bench, name: str, **limits: Any) -> None:
    answer = await edge.admin.put(f"/v1/admin/quotas/{name}", json={"limits": limits})
    assert answer.status_code == 200, answer.text


async def upload(client: httpx.AsyncClient, content: bytes) -> httpx.Response:
    return await client.put(f"/v1/blobs/{sha256(content).hexdigest()}", content=content)


# --- queued jobs -------------------------------------------------------------------------------------------
async def test_a_full_queue_is_429_until_a_job_leaves_it_and_after_a_restart_too(
    where: dict[str, Any],
) -> None:
    """The refusal says what is used, what is allowed and when to come back; a cancel gives back at once."""
    async with an_edge(**where, quota_queued_jobs=2) as edge:
        first = await edge.submit(edge.alice)
        await edge.submit(edge.alice)
        refused = await edge.alice.post("/v1/jobs", json=JOB)
        assert (refused.status_code, refused.json()["code"]) == (429, "QUEUE_FULL")
        assert refused.headers["Retry-After"] == "10"
        assert "2 queued jobs of 2 allowed" in refused.json()["detail"]
        assert (await edge.alice.post(f"/v1/jobs/{first['job_id']}/cancel")).status_code == 200
        assert (await edge.alice.post("/v1/jobs", json=JOB)).status_code == 201
        assert (await edge.bob.post("/v1/jobs", json=JOB)).status_code == 201
    async with an_edge(**where, quota_queued_jobs=2) as edge:
        assert (await quota_of(edge))["used"]["queued_jobs"] == 2
        assert (await edge.alice.post("/v1/jobs", json=JOB)).json()["code"] == "QUEUE_FULL"
        await set_quota(edge, "alice", queued_jobs=3)
        assert (await edge.alice.post("/v1/jobs", json=JOB)).status_code == 201


async def test_a_taken_job_leaves_the_queue_and_its_bytes_stay(where: dict[str, Any]) -> None:
    """A result counts for the client; the figures are the same after a restart."""
    async with an_edge(**where) as edge:
        await edge.register()
        await edge.finish(edge.alice, {"sha256": "0" * 64, "bytes": 5})
        await edge.submit(edge.alice)
        before = (await quota_of(edge))["used"]
        assert (before["queued_jobs"], before["running_jobs"]) == (1, 0)
        size = 2 * len(b'{"text":"hello"}') + len(b'{"bytes":5,"sha256":"%s"}' % (b"0" * 64))
        assert before["payload_bytes"] == before["stored_bytes"] == size
        assert (await quota_of(edge, edge.rig))["used"]["miners"] == 1
    async with an_edge(**where) as edge:
        used = (await quota_of(edge))["used"]
        assert used == before
        listed = (await edge.admin.get("/v1/admin/quotas", params={"limit": 1})).json()
        assert [item["name"] for item in listed["items"]] == ["alice"]
        assert listed["items"][0]["used"] == before


async def test_two_keys_of_a_name_share_its_limit(where: dict[str, Any]) -> None:
    """Another key of the same name is no second quota."""
    async with an_edge(**where, quota_queued_jobs=1) as edge:
        made = await edge.admin.post("/v1/admin/keys", json={"name": "alice", "role": "client"})
        other = {"X-Api-Key": made.json()["key"]}
        assert (await edge.anyone.post("/v1/jobs", json=JOB, headers=other)).status_code == 201
        assert (await edge.alice.post("/v1/jobs", json=JOB)).json()["code"] == "QUEUE_FULL"


async def test_limits_are_an_admins_to_change_and_the_names_own_to_see(where: dict[str, Any]) -> None:
    """Changes are events: they outlive a restart, and the read model equals a fold of the log."""
    async with an_edge(**where, max_client_priority=4) as edge:
        high = {**JOB, "priority": 9}
        refused = await edge.alice.post("/v1/jobs", json=high)
        assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")
        assert "0 to 4" in refused.json()["detail"]
        for client in (edge.alice, edge.rig):
            for path in ("/v1/admin/quotas", "/v1/admin/quotas/alice"):
                assert (await client.get(path)).status_code == 403
            answer = await client.put("/v1/admin/quotas/alice", json={"limits": {"max_priority": 9}})
            assert answer.status_code == 403
        await set_quota(edge, "alice", max_priority=9, stored_bytes="unlimited")
        assert (await edge.alice.post("/v1/jobs", json=high)).status_code == 201
        for bad in ({"max_priority": 10}, {"queued_jobs": -1}, {"no_such": 1}, {"miners": "many"}):
            answer = await edge.admin.put("/v1/admin/quotas/alice", json={"limits": bad})
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_PAYLOAD")
        assert (await edge.admin.put("/v1/admin/quotas/a%20b", json={"limits": {}})).status_code == 422
    async with an_edge(**where, max_client_priority=4) as edge:
        assert (await edge.alice.post("/v1/jobs", json=high)).status_code == 201
        own = await quota_of(edge)
        assert own["own_limits"]["max_priority"] == own["limits"]["max_priority"] == 9
        assert own["limits"]["stored_bytes"] is None
        await edge.reached(edge.coordinator.feed.head)
        adapters = edge.coordinator.adapters
        assert list(await asyncio.to_thread(lambda: [*differences(adapters.log, adapters.database)])) == []


async def test_a_flood_of_high_priorities_does_not_hold_up_another_client(edge: Bench) -> None:
    """Of 60 jobs of priority 9 at most a few go before another client's job of priority 0."""
    for number in range(60):
        body = {**JOB, "priority": 9, "payload": {"text": f"flood {number}"}}
        assert (await edge.alice.post("/v1/jobs", json=body)).status_code == 201
    modest = (await edge.submit(edge.bob))["job_id"]
    await edge.register()
    taken: list[str] = []
    while modest not in taken:
        offer = await edge.poll()
        taken.append(offer["job_id"])
        await edge.complete(offer, {"sha256": "0" * 64, "bytes": 5})
        assert len(taken) <= 8


# --- uploads -----------------------------------------------------------------------------------------------
async def test_uploads_are_bounded_and_count_once(where: dict[str, Any]) -> None:
    """Many tiny ones count as blocks, a repeat nothing, and what is too much is refused before it is sent."""
    most = 20 * MIN_BLOB_BYTES
    async with an_edge(**where, quota_stored_bytes=most) as edge:
        for _ in range(3):
            assert (await upload(edge.alice, b"tiny")).status_code == 201
        assert (await quota_of(edge))["used"]["blob_bytes"] == MIN_BLOB_BYTES
        answers = await asyncio.gather(*(upload(edge.alice, b"file %d" % n) for n in range(40)))
        assert Counter(a.status_code for a in answers) == {201: 19, 429: 21}
        assert {a.json()["code"] for a in answers if a.status_code == 429} == {"QUOTA_EXCEEDED"}
        assert (await quota_of(edge))["used"]["stored_bytes"] == most
        assert (await upload(edge.alice, b"tiny")).status_code == 201  # a repeat, at the limit
        assert (await upload(edge.bob, b"tiny")).status_code == 201

        read = 0

        async def large() -> AsyncIterator[bytes]:
            nonlocal read
            for _ in range(100):
                read += MIN_BLOB_BYTES
                yield b"x" * MIN_BLOB_BYTES

        answer = await edge.bob.put("/v1/blobs/" + "0" * 64, content=large())
        assert (answer.status_code, answer.json()["code"]) == (429, "QUOTA_EXCEEDED")
        assert read <= most
        assert edge.coordinator.quotas.uploads.count("bob") == 0
    async with an_edge(**where, quota_stored_bytes=most) as edge:
        assert (await quota_of(edge))["used"]["stored_bytes"] == most
        assert (await upload(edge.alice, b"another")).json()["code"] == "QUOTA_EXCEEDED"


# --- miners ------------------------------------------------------------------------------------------------
async def test_nodes_and_profiles_of_a_key_are_bounded(where: dict[str, Any]) -> None:
    """The third node is refused, a node that registers again is not, and one that leaves makes room."""
    async with an_edge(**where, quota_miners=2, quota_profiles=1) as edge:

        async def register(node: str, region: str = "here") -> dict[str, Any]:
            body = {
                "miner_id": f"{node}@rig",
                "capabilities": {"services": [SERVICE], "region": region},
                "public_key": edge.keys["rig"].key_id,
            }
            found: dict[str, Any] = (await edge.rig.post("/v1/miners/register", json=body)).json()
            return found

        first, again = await register("a"), await register("a")
        assert first["session_id"] != again["session_id"]
        other = await register("b", "elsewhere")
        assert (other["code"], "1 profiles of 1" in other["detail"]) == ("QUOTA_EXCEEDED", True)
        assert (await register("b"))["state"] == "ONLINE"
        assert (await register("c"))["code"] == "QUOTA_EXCEEDED"
        leave = {"miner_id": "b@rig", "session_id": (await register("b"))["session_id"]}
        assert (await edge.rig.post("/v1/miners/leave", json=leave)).status_code == 200
        assert (await register("c"))["state"] == "ONLINE"


# --- AMQP --------------------------------------------------------------------------------------------------
async def test_an_array_over_amqp_is_refused_singly_beyond_the_limits(
    tmp_path: Path, amqp_url: str, database_url: str
) -> None:
    """Of 500 submits as many are accepted as have room; then the rate ends, for AMQP and HTTP alike.

    Heartbeats have no rate, and other names are not hurt.
    """
    settings = {"database_url": database_url, "amqp_url": amqp_url, "quota_queued_jobs": 30}
    async with an_edge(tmp_path, **settings, quota_commands_per_minute=600) as edge:
        sender = Sender(amqp_url)
        await sender.start()
        secrets = {name: f"secret-of-{name}" for name in ("alice", "bob", "rig")}

        async def ask(name: str, body: Any, kind: str = "job.submit", **options: Any) -> Any:
            return await sender.ask(body, kind, who=name, secret=secrets[name], **options)

        jobs = [{**JOB, "ttl_seconds": 60, "idempotency_key": f"job-{n}"} for n in range(500)]
        answers = await ask("alice", jobs)
        assert codes(answers) == ["accepted"] * 30 + ["QUEUE_FULL"] * 470
        again = codes(await ask("alice", jobs))
        assert again[:30] == ["accepted"] * 30
        assert set(again[30:90]) == {"QUEUE_FULL"}
        assert again[-300:] == ["RATE_LIMITED"] * 300
        limited = (await ask("alice", jobs))[-1]
        assert (limited["code"], 0 < limited["retry_after"] <= 60) == ("RATE_LIMITED", True)
        assert codes(await ask("bob", jobs[:1])) == ["accepted"]
        await set_quota(edge, "alice", commands_per_minute=1)
        over_http = await edge.alice.post("/v1/jobs", json=JOB)
        assert (over_http.status_code, over_http.json()["code"]) == (429, "RATE_LIMITED")
        assert 1 <= int(over_http.headers["Retry-After"]) <= 60

        session = (await edge.register())["session_id"]
        await set_quota(edge, "rig", commands_per_minute=0)
        claim = {"job_id": answers[0]["job_id"], "attempt": 1, "miner_id": "rig", "session_id": session}
        assert (await ask("rig", claim, "job.start"))["code"] == "RATE_LIMITED"
        beat = {"miner_id": "rig", "session_id": session}
        answer = await ask("rig", beat, "miner.heartbeat", queue=HEARTBEATS_QUEUE)
        assert answer["status"] == "accepted"
        await sender.stop()


async def test_two_processes_share_the_counts(tmp_path: Path, amqp_url: str, database_url: str) -> None:
    """Jobs that one process accepted fill the queue in the other, too; of many at once few pass too many."""
    settings = {
        "database_url": database_url,
        "amqp_url": amqp_url,
        "quota_queued_jobs": 20,
        "quota_stored_bytes": 40 * MIN_BLOB_BYTES,
        "receipt_signing_key_hex": "ab" * 32,
        "blob_store": str(tmp_path / "blobs"),
    }
    async with an_edge(tmp_path / "a", **settings) as a, an_edge(tmp_path / "b", **settings) as b:
        for edge in (a, b) * 5:
            assert (await edge.alice.post("/v1/jobs", json=JOB)).status_code == 201
        known = [edge.coordinator.quotas for edge in (a, b)]
        await eventually(lambda: [q.usage_of("alice").queued_jobs for q in known] == [10, 10])
        both = await asyncio.gather(*(e.alice.post("/v1/jobs", json=JOB) for e in (a, b) * 20))
        accepted = 10 + [answer.status_code for answer in both].count(201)
        assert 20 <= accepted <= 30
        await eventually(lambda: b.coordinator.quotas.usage_of("alice").queued_jobs == accepted)
        for edge in (a, b):
            assert (await edge.alice.post("/v1/jobs", json=JOB)).json()["code"] == "QUEUE_FULL"
        await set_quota(a, "alice", queued_jobs=1000)
        await eventually(lambda: b.coordinator.quotas.limits_of("alice").queued_jobs == 1000)
        assert (await b.alice.post("/v1/jobs", json=JOB)).status_code == 201
        uploads = await asyncio.gather(*(upload((a, b)[n % 2].bob, b"file %d" % n) for n in range(60)))
        assert [u.status_code for u in uploads].count(201) == 40


def codes(answers: Sequence[dict[str, Any]]) -> list[str]:
    return [answer.get("code", "accepted") for answer in answers]


# --- expiry ------------------------------------------------------------------------------------------------
async def an_expiry(edge: Bench, hours_later: float, **ages: int) -> Expiry:
    """An expiry to which it is so many hours later than to all others."""
    adapters = edge.coordinator.adapters
    await adapters.leadership.acquire(Expiry.name)
    later = int(hours_later * HOUR)
    clock = Clock(now=lambda: time.time_ns() // 1_000_000 + later, monotonic=time.monotonic)
    return Expiry(
        adapters.log,
        adapters.database,
        edge.coordinator.blobs,
        adapters.leadership,
        clock,
        edge.coordinator.quotas,
        edge.coordinator.gateway.handle,
        Ages(**ages),
        3600,
    )


async def stored(edge: Bench, content: bytes) -> bool:
    return await edge.coordinator.blobs.stat(sha256(content).hexdigest()) is not None


def reading(content: bytes) -> dict[str, Any]:
    """A job that reads this upload."""
    return {"service": SERVICE, "payload": {"inputs": [f"blob:{sha256(content).hexdigest()}"]}}


async def test_uploads_that_no_job_needs_expire_and_others_do_not(
    where: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a queued job needs stays, whoever uploaded it, until the job's payload expires, too."""
    async with an_edge(**where) as edge:
        for module in (bodies, handler):
            monkeypatch.setattr(module, "MAX_INLINE_BYTES", 100)
        unused, needed, large = b"unused", b"needed by a job", "x" * 200
        for content in (unused, needed):
            assert (await upload(edge.alice, content)).status_code == 201
        assert (await upload(edge.bob, needed)).status_code == 201
        job = await edge.submit(edge.alice, **reading(needed))
        big = await edge.submit(edge.alice, payload={"text": large})
        lost = await edge.alice.post("/v1/jobs", json={**reading(needed), "service": "nothing"})
        assert lost.json()["code"] == "SERVICE_NOT_FOUND"

        await (await an_expiry(edge, 167, blobs=168)).round()
        assert [await stored(edge, content) for content in (unused, needed)] == [True, True]
        await (await an_expiry(edge, 169, blobs=168)).round()
        assert [await stored(edge, content) for content in (unused, needed)] == [False, True]
        path = f"/v1/blobs/{sha256(unused).hexdigest()}"
        assert (await edge.alice.head(path)).status_code == 404
        refused = await edge.alice.post("/v1/jobs", json=reading(unused))
        assert refused.json()["code"] == "BLOB_NOT_FOUND"
        assert (await upload(edge.alice, unused)).status_code == 201  # again

        for submitted in (job, big):
            await edge.alice.post(f"/v1/jobs/{submitted['job_id']}/cancel")
        await edge.reached(edge.coordinator.feed.head)
        canonical = b'{"text":"' + large.encode() + b'"}'
        assert await stored(edge, canonical)
        expiry = await an_expiry(edge, 169, blobs=168, payloads=168)
        await expiry.round()
        await expiry.round()
        gone = await edge.alice.get(f"/v1/jobs/{job['job_id']}/blobs/{sha256(needed).hexdigest()}")
        assert (gone.status_code, gone.json()["code"]) == (410, "CONTENT_EXPIRED")
        contents = (unused, needed, canonical)
        assert [await stored(edge, content) for content in contents] == [False, False, False]
        quotas = edge.coordinator.quotas
        await eventually(lambda: [quotas.usage_of(n).stored_bytes for n in ("alice", "bob")] == [0, 0])


async def test_results_expire_and_the_log_still_verifies(where: dict[str, Any]) -> None:
    """410 with a code; the receipt stays, and so does the payload of a job that still runs."""
    async with an_edge(**where) as edge:
        await edge.register()
        job = await edge.finish(edge.alice, {"sha256": "0" * 64, "bytes": 5})
        running = await edge.submit(edge.alice, payload={"text": "running"})
        await edge.poll()
        queued = await edge.submit(edge.alice, payload={"text": "queued"})
        for hours, status in ((23, 200), (25, 410)):
            await (await an_expiry(edge, hours, payloads=24, results=24)).round()
            answer = await edge.alice.get(f"/v1/jobs/{job}/result")
            assert answer.status_code == status
        assert answer.json()["code"] == "CONTENT_EXPIRED"
        assert (await edge.alice.get(f"/v1/jobs/{job}/receipt")).status_code == 200
        ids = [UUID(job), UUID(running["job_id"]), UUID(queued["job_id"])]
        log = edge.coordinator.adapters.log
        left = await asyncio.to_thread(log.payloads, "payload", ids)
        assert set(left) == set(ids[1:])
        left_bytes = len(b'{"text":"running"}') + len(b'{"text":"queued"}')
        await eventually(lambda: edge.coordinator.quotas.usage_of("alice").stored_bytes == left_bytes)
        database = edge.coordinator.adapters.database
        assert await asyncio.to_thread(lambda: [*differences(log, database)]) == []
    async with an_edge(**where) as edge:
        assert (await quota_of(edge))["used"]["stored_bytes"] == left_bytes


async def test_a_crash_between_a_files_row_and_its_content_is_made_good(where: dict[str, Any]) -> None:
    """The next round removes the content; a file that was uploaded again meanwhile stays."""
    async with an_edge(**where) as edge:
        gone, again = b"gone", b"uploaded again"
        for content in (gone, again):
            await upload(edge.alice, content)
        expiry = await an_expiry(edge, 2, blobs=1)
        await asyncio.to_thread(expiry._drop_unused, time.time_ns() // 1_000_000 + HOUR)
        assert [await stored(edge, content) for content in (gone, again)] == [True, True]
        assert (await upload(edge.alice, again)).status_code == 201
        await (await an_expiry(edge, 3)).round()
        assert [await stored(edge, content) for content in (gone, again)] == [False, True]
        assert (await edge.alice.post("/v1/jobs", json=reading(again))).status_code == 201


async def test_nothing_expires_after_a_jump_of_the_clock(edge: Bench) -> None:
    """A clock that jumps a year ahead removes nothing for an hour; then its time is taken as right."""
    await upload(edge.alice, b"unused")
    monotonic, ahead = 0.0, 0
    expiry = await an_expiry(edge, 0, blobs=1)
    expiry._clock = Clock(now=lambda: int(monotonic * 1000) + ahead, monotonic=lambda: monotonic)
    expiry._offset = expiry._clock_offset()
    monotonic, ahead = 60.0, time.time_ns() // 1_000_000 + 365 * 24 * HOUR
    for _ in range(3):
        await expiry.round()
        monotonic += expiries.HOLD_SECONDS / 3 - 1
    assert await stored(edge, b"unused")
    monotonic += 10
    await expiry.round()
    assert not await stored(edge, b"unused")


async def test_miners_that_are_long_gone_leave_the_lists(where: dict[str, Any]) -> None:
    """Not those that are online; the read models still pass their check, and the miner may come back."""
    async with an_edge(**where) as edge:
        for name in ("rig", "other-rig"):
            await edge.register(name)
        session = (await edge.admin.get("/v1/miners/rig")).json()["session_id"]
        left = await edge.rig.post("/v1/miners/leave", json={"session_id": session})
        await edge.reached(left.json()["position"])
        for hours, names in ((719, {"rig", "other-rig"}), (721, {"other-rig"})):
            await (await an_expiry(edge, hours, miners=720)).round()
            listed = (await edge.admin.get("/v1/admin/miners")).json()["items"]
            assert {miner["miner_id"] for miner in listed} == names
        adapters = edge.coordinator.adapters
        assert await asyncio.to_thread(lambda: [*differences(adapters.log, adapters.database)]) == []
        await edge.register("rig")
        await edge.reached(edge.coordinator.feed.head)
        assert (await edge.admin.get("/v1/miners/rig")).json()["state"] == "ONLINE"
