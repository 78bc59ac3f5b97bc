"""Erasures over HTTP and AMQP, from the command to what readers and auditors see, in both modes."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from coordinator.audit.run import AuditOptions, AuditReport, audit
from coordinator.audit.sources.database import open_postgres, open_sqlite
from coordinator.crypto.log.checkpoint import read_checkpoint
from coordinator.crypto.merkle import verify_inclusion
from coordinator.crypto.receipt import verify_receipt
from coordinator.domain.job import ends_job
from coordinator.projections.projector import differences
from coordinator.storage.connections.data_directory import DATABASE_FILE
from tests.harness.waiting import eventually
from tests.integration.edge_bench import Bench, an_edge
from tests.integration.test_inbox import Sender
from tests.integration.test_quotas import an_expiry, reading, stored, upload

WHY = {"reason": "no longer needed"}
BYTES = len(b'{"text":"hello"}')


async def events_of(edge: Bench, topic: str = "content.erased.v1") -> list[Any]:
    log = edge.coordinator.adapters.log
    found = await asyncio.to_thread(log.read, 0, 10_000)
    return [recorded for recorded in found if recorded.event.topic == topic]


async def an_inclusion(edge: Bench, position: int) -> dict[str, Any]:
    """The proof that the log has this event, in a checkpoint over all events so far."""
    head = edge.coordinator.feed.head
    async with asyncio.timeout(30):
        while True:
            answer = await edge.alice.get("/v1/proofs/inclusion", params={"position": position})
            found: dict[str, Any] = answer.json()
            if answer.status_code == 200 and found["size"] >= head:
                return found
            await asyncio.sleep(0.1)


async def erase(client: httpx.AsyncClient, job: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post(f"/v1/jobs/{job}/erase", json={**WHY, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def audited(edge: Bench) -> AuditReport:
    settings = edge.coordinator.settings
    opened = (
        open_sqlite(settings.data_dir / DATABASE_FILE)
        if settings.database_url is None
        else open_postgres(settings.database_url.get_secret_value())
    )
    with opened as source:
        return audit(source, AuditOptions(processes=0), lambda done, total: None)


async def test_an_erased_job_is_gone_and_all_proofs_stay(any_edge: Bench) -> None:
    """Readers are told who erased it and why; its receipt, its proof and the audit are as before."""
    edge = any_edge
    await edge.register()
    job = await edge.finish(edge.alice, {"secret": "s3cr3t"})
    kept = await edge.finish(edge.alice, {"other": 1})
    before = (await edge.alice.get(f"/v1/jobs/{job}")).json()
    receipt = (await edge.alice.get(f"/v1/jobs/{job}/receipt")).json()
    assert (None, None) == (before["payload_erased"], before["result_erased"])
    told = await erase(edge.alice, job)
    assert (1, ["payload", "result"], True) == (told["jobs"], told["kinds"], told["erased"])

    gone = await edge.alice.get(f"/v1/jobs/{job}/result")
    assert (410, "CONTENT_EXPIRED") == (gone.status_code, gone.json()["code"])
    assert (told["position"], WHY["reason"]) == (gone.json()["position"], gone.json()["reason"])
    view = (await edge.alice.get(f"/v1/jobs/{job}")).json()
    assert {**before, "payload_erased": told["position"], "result_erased": told["position"]} == view
    listed = (await edge.alice.get("/v1/jobs")).json()["items"]
    assert {job: told["position"], kept: None} == {one["job_id"]: one["result_erased"] for one in listed}
    last = (await edge.alice.get(f"/v1/jobs/{job}/history")).json()["entries"][-1]
    assert (told["position"], "alice erased the payload and the result: no longer needed") == (
        last["position"],
        last["text"],
    )
    [recorded] = await events_of(edge)
    assert ([job], "alice") == ([str(one) for one in recorded.event.jobs], recorded.event.client)
    assert b"s3cr3t" not in recorded.data

    again = (await edge.alice.get(f"/v1/jobs/{job}/receipt")).json()
    assert receipt == again
    verify_receipt(again, {edge.coordinator.signing_key_id}, {"rig": edge.keys["rig"].key_id})
    proof = await an_inclusion(edge, before["position"])
    path = [bytes.fromhex(one) for one in proof["path"]]
    checkpoint = read_checkpoint(proof["checkpoint"].encode()).checkpoint
    assert checkpoint.size == proof["size"]
    leaf = bytes.fromhex(proof["leaf_hash"])
    assert verify_inclusion(leaf, proof["index"], proof["size"], path, checkpoint.root)
    assert (await edge.alice.get(f"/v1/jobs/{kept}/result")).status_code == 200
    assert None is audited(edge).divergence
    adapters = edge.coordinator.adapters
    assert [] == await asyncio.to_thread(lambda: [*differences(adapters.log, adapters.database)])
    left = BYTES + len(b'{"other":1}')
    await eventually(lambda: edge.coordinator.quotas.usage_of("alice").stored_bytes == left)

    # Repeats, by whomever, change nothing.
    for client in (edge.alice, edge.admin):
        assert told["position"] == (await erase(client, job, reason="again"))["position"]
    assert 1 == len(await events_of(edge))


async def test_an_erasure_of_one_kind_leaves_the_other(edge: Bench) -> None:
    """The payload alone; the rest can be erased later."""
    await edge.register()
    job = await edge.finish(edge.alice, {"ok": True})
    await erase(edge.alice, job, kinds=["payload"])
    assert (await edge.alice.get(f"/v1/jobs/{job}/result")).json()["result"] == {"ok": True}
    await erase(edge.admin, job)
    assert (await edge.alice.get(f"/v1/jobs/{job}/result")).status_code == 410
    assert ["alice", "root"] == [recorded.event.by for recorded in await events_of(edge)]


async def test_refusals(edge: Bench) -> None:
    """A stranger's job is not there, a job under way has to be canceled first, and bad input is named."""
    await edge.register()
    done = await edge.finish(edge.alice, {"ok": True})
    queued = (await edge.submit(edge.alice, constraints={"region": "nowhere"}))["job_id"]
    cases: list[tuple[httpx.AsyncClient, str, Any, int, str]] = [
        (edge.bob, done, WHY, 404, "JOB_NOT_FOUND"),
        (edge.alice, str(uuid4()), WHY, 404, "JOB_NOT_FOUND"),
        (edge.rig, done, WHY, 403, "FORBIDDEN"),
        (edge.alice, queued, WHY, 409, "CONFLICT_STATE"),
        (edge.admin, queued, WHY, 409, "CONFLICT_STATE"),
        (edge.alice, done, {}, 422, "INVALID_PAYLOAD"),
        (edge.alice, done, {"reason": ""}, 422, "INVALID_PAYLOAD"),
        (edge.alice, done, {**WHY, "kinds": ["receipt"]}, 422, "INVALID_PAYLOAD"),
        (edge.alice, done, {**WHY, "kinds": []}, 422, "INVALID_PAYLOAD"),
        (edge.alice, done, {**WHY, "job_ids": [queued]}, 422, "INVALID_PAYLOAD"),
        (edge.alice, done, {**WHY, "unknown": 1}, 422, "INVALID_PAYLOAD"),
    ]
    for client, job, body, status, code in cases:
        answer = await client.post(f"/v1/jobs/{job}/erase", json=body)
        assert (status, code) == (answer.status_code, answer.json()["code"]), (body, answer.text)
    bad: list[dict[str, Any]] = [
        WHY,
        {"client": "alice"},
        {**WHY, "client": "a b"},
        {**WHY, "older_than_seconds": -1},
        {**WHY, "older_than_seconds": "30d"},
        {**WHY, "client": "alice", "dry_run": "yes"},
        {**WHY, "client": "alice", "cursor": "nonsense"},
        {**WHY, "client": "alice", "unknown": 1},
    ]
    for body in bad:
        answer = await edge.admin.post("/v1/admin/erase", json=body)
        assert (422, "INVALID_PAYLOAD") == (answer.status_code, answer.json()["code"]), (body, answer.text)
    for stranger in (edge.alice, edge.rig):
        answer = await stranger.post("/v1/admin/erase", json={**WHY, "client": "bob"})
        assert (403, "FORBIDDEN") == (answer.status_code, answer.json()["code"])
    assert [] == await events_of(edge)
    assert (await edge.alice.get(f"/v1/jobs/{done}/result")).status_code == 200
    await edge.alice.post(f"/v1/jobs/{queued}/cancel")
    assert (await erase(edge.alice, queued))["erased"]


async def test_an_admin_erases_a_client_piece_by_piece(
    any_edge: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run counts the same; jobs under way, other clients and what is gone already are left alone."""
    monkeypatch.setattr("coordinator.edge.routes.erasures.PIECE", 2)
    edge = any_edge
    await edge.register()
    done = [await edge.finish(edge.alice, {"n": n}) for n in range(3)]
    canceled = (await edge.submit(edge.alice, constraints={"region": "nowhere"}))["job_id"]
    await edge.alice.post(f"/v1/jobs/{canceled}/cancel")
    queued = (await edge.submit(edge.alice, constraints={"region": "nowhere"}))["job_id"]
    others = await edge.finish(edge.bob, {"n": 9})
    await erase(edge.alice, done[0], kinds=["result"])
    await edge.reached(edge.coordinator.feed.head)

    async def batch(**fields: Any) -> list[dict[str, Any]]:
        pieces: list[dict[str, Any]] = []
        cursor: dict[str, Any] = {}
        while True:
            answer = await edge.admin.post("/v1/admin/erase", json={**WHY, **fields, **cursor})
            assert answer.status_code == 200, answer.text
            pieces.append(answer.json())
            if answer.json()["next_cursor"] is None:
                return pieces
            cursor = {"cursor": answer.json()["next_cursor"]}

    def sums(pieces: list[dict[str, Any]]) -> list[int]:
        return [sum(piece[name] for piece in pieces) for name in ("jobs", "payloads", "results")]

    assert [4, 4, 2] == sums(await batch(client="alice", dry_run=True))
    assert [0, 0, 0] == sums(await batch(client="alice", older_than_seconds=3600, dry_run=True))
    assert 1 == len(await events_of(edge))
    pieces = await batch(client="alice")
    assert [4, 4, 2] == sums(pieces)
    assert 3 == len(pieces)  # the last one is empty
    assert {True} == {piece["erased"] for piece in pieces}
    assert [0, 0, 0] == sums(await batch(client="alice"))
    for job in done:
        assert (await edge.alice.get(f"/v1/jobs/{job}/result")).status_code == 410
    assert (await edge.bob.get(f"/v1/jobs/{others}/result")).status_code == 200
    assert (await edge.alice.get(f"/v1/jobs/{queued}")).json()["payload_erased"] is None
    assert [1, 1, 1] == sums(await batch(older_than_seconds=0))
    cursor = (await edge.admin.post("/v1/admin/erase", json={**WHY, "client": "alice"})).json()["next_cursor"]
    other = {**WHY, "client": "bob", "cursor": cursor}
    assert "another client's batch" in (await edge.admin.post("/v1/admin/erase", json=other)).json()["detail"]
    assert None is audited(edge).divergence


async def test_files_go_unless_another_job_needs_them(any_edge: Bench) -> None:
    """Once they were not used for ten minutes; their bytes are given back, and bob's upload stays."""
    edge = any_edge
    own, shared = b"a file of alice's", b"a file that two jobs need"
    for client, content in ((edge.alice, own), (edge.alice, shared), (edge.bob, own)):
        assert (await upload(client, content)).status_code == 201
    jobs = [
        (await edge.submit(edge.alice, **reading(content)))["job_id"] for content in (own, shared, shared)
    ]
    for job in jobs:
        await edge.alice.post(f"/v1/jobs/{job}/cancel")
    for job in jobs[:2]:
        await erase(edge.alice, job)
    path = f"/v1/jobs/{jobs[0]}/blobs/{sha256(own).hexdigest()}"
    gone = await edge.alice.get(path)
    assert (410, "CONTENT_EXPIRED") == (gone.status_code, gone.json()["code"])
    assert WHY["reason"] == gone.json()["reason"]
    heads = {"alice": edge.alice, "bob": edge.bob}

    async def owners(content: bytes) -> set[str]:
        digest = sha256(content).hexdigest()
        return {n for n, c in heads.items() if (await c.head(f"/v1/blobs/{digest}")).status_code == 200}

    await (await an_expiry(edge, 0.1)).round()
    assert {"alice", "bob"} == await owners(own)
    expiry = await an_expiry(edge, 1)
    await expiry.round()
    assert ({"bob"}, {"alice"}) == (await owners(own), await owners(shared))
    assert [True, True] == [await stored(edge, content) for content in (own, shared)]
    await erase(edge.alice, jobs[2])
    await (await an_expiry(edge, 1)).round()
    await (await an_expiry(edge, 1)).round()
    assert [True, False] == [await stored(edge, content) for content in (own, shared)]
    await eventually(lambda: edge.coordinator.quotas.usage_of("alice").stored_bytes == 0)


async def test_a_repeated_submit_keeps_no_file_of_erased_content(edge: Bench) -> None:
    """It is answered as before, and notes its files once more; nobody needs them any longer."""
    content = b"a file of a job that is submitted again"
    assert (await upload(edge.alice, content)).status_code == 201
    headers = {"Idempotency-Key": "again"}
    job = (await edge.alice.post("/v1/jobs", json=reading(content), headers=headers)).json()["job_id"]
    await edge.alice.post(f"/v1/jobs/{job}/cancel")
    await erase(edge.alice, job)
    repeated = await edge.alice.post("/v1/jobs", json=reading(content), headers=headers)
    assert (201, job) == (repeated.status_code, repeated.json()["job_id"])
    for _ in range(2):
        await (await an_expiry(edge, 169, blobs=168)).round()
    assert not await stored(edge, content)
    gone = await edge.alice.get(f"/v1/jobs/{job}/blobs/{sha256(content).hexdigest()}")
    assert (410, "CONTENT_EXPIRED") == (gone.status_code, gone.json()["code"])


async def test_expiry_leaves_the_same_event(any_edge: Bench) -> None:
    """It says how old is too old; what was erased before is left out, and a round again asks for nothing."""
    edge = any_edge
    await edge.register()
    jobs = [await edge.finish(edge.alice, {"n": n}) for n in range(2)]
    bobs = await edge.finish(edge.bob, {"n": 3})
    await erase(edge.alice, jobs[0])
    expiry = await an_expiry(edge, 25, payloads=24, results=24)
    for _ in range(2):
        await expiry.round()
    _, *erasures = [recorded.event for recorded in await events_of(edge)]
    assert [("payload",), ("result",)] == [event.kinds for event in erasures]
    for event in erasures:
        assert ("coordinator", None, "older than 24 hours") == (event.by, event.client, event.reason)
        assert {jobs[1], bobs} == {str(job) for job in event.jobs}
    gone = await edge.bob.get(f"/v1/jobs/{bobs}/result")
    assert (410, "older than 24 hours") == (gone.status_code, gone.json()["reason"])
    history = (await edge.bob.get(f"/v1/jobs/{bobs}/history")).json()["entries"][-2:]
    assert [[bobs], [bobs]] == [entry["event"]["jobs"] for entry in history]
    await eventually(lambda: edge.coordinator.quotas.usage_of("alice").stored_bytes == 0)
    assert None is audited(edge).divergence


async def test_expiry_asks_again_after_a_crash(edge: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The erasure is in the log and its position not moved: the same erasure is asked for, once more without
    an event."""
    await edge.register()
    await edge.finish(edge.alice, {"n": 1})
    expiry = await an_expiry(edge, 25, results=24)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(expiry, "_move", dies)
        with pytest.raises(KeyboardInterrupt):
            await expiry.round()
    assert 1 == len(await events_of(edge))
    with monkeypatch.context() as patched:  # as if the eraser had not come so far
        ended = lambda kind, due: [r.stream for r in due if ends_job(r.event)]  # noqa: E731
        patched.setattr(expiry, "_not_erased", ended)
        await expiry.round()
    assert 1 == len(await events_of(edge))
    position = await asyncio.to_thread(expiry._position, "expiry-result")
    assert position > 0
    await eventually(lambda: edge.coordinator.quotas.usage_of("alice").stored_bytes == BYTES)


async def test_over_amqp(tmp_path: Path, amqp_url: str, database_url: str) -> None:
    """The same command in an array: each element is decided alone."""
    async with an_edge(tmp_path, database_url=database_url, amqp_url=amqp_url) as edge:
        await edge.register()
        done = await edge.finish(edge.alice, {"ok": True})
        sender = Sender(amqp_url)
        await sender.start()
        wanted = [{"job_ids": [done], **WHY}, {"job_ids": [done, str(uuid4())], **WHY}]
        answers = await sender.ask(wanted, "content.erase", who="alice", secret="secret-of-alice")
        await sender.stop()
        assert ("accepted", True) == (answers[0]["status"], answers[0]["erased"])
        assert "JOB_NOT_FOUND" == answers[1]["code"]
        assert (await edge.alice.get(f"/v1/jobs/{done}/result")).status_code == 410


async def test_an_audit_finds_content_that_nobody_erased(edge: Bench) -> None:
    """Deleted rows without an event diverge at the job's last event, and rows in spite of one at that."""
    await edge.register()
    job = await edge.finish(edge.alice, {"ok": True})
    log, database = edge.coordinator.adapters.log, edge.coordinator.adapters.database
    position = (await edge.alice.get(f"/v1/jobs/{job}")).json()["position"]
    kept = (await asyncio.to_thread(log.payloads, "result", [UUID(job)]))[UUID(job)]
    await asyncio.to_thread(log.erase, [UUID(job)], "result")
    found = audited(edge).divergence
    assert found is not None
    assert ("erased", position) == (found.kind, found.position)
    told = await erase(edge.alice, job)
    assert None is audited(edge).divergence
    with database.transaction() as tables:
        row = {"job_id": UUID(job).hex, "kind": "result", "salt": kept.salt, "body": kept.body}
        tables.put("payloads", [row])
    found = audited(edge).divergence
    assert found is not None
    assert ("erased", told["position"]) == (found.kind, found.position)
