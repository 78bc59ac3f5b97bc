"""Results and receipts over HTTP: when there are some, waiting for them, and where they come from."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.receipt import verify_receipt
from coordinator.edge.models.jobs import JobResult
from tests.integration.edge_bench import Bench, an_edge


async def test_a_result_is_not_ready_until_the_job_is_final(edge: Bench) -> None:
    """425 JOB_NOT_READY while the job is queued and while it runs, with its state."""
    job = (await edge.submit(edge.alice))["job_id"]
    for state in ("QUEUED", "RUNNING"):
        for path in ("result", "receipt"):
            answer = await edge.alice.get(f"/v1/jobs/{job}/{path}")
            assert (answer.status_code, answer.json()["code"]) == (425, "JOB_NOT_READY")
            assert answer.json()["state"] == state
        assert (await edge.alice.get(f"/v1/jobs/{job}/receipts")).json() == {
            "items": [],
            "next_cursor": None,
        }
        if state == "QUEUED":
            await edge.register()
            await edge.reached((await edge.poll())["position"])


async def test_a_result_is_what_the_miner_handed_in(edge: Bench) -> None:
    """The document, its digest and its salt: whoever reads them can check them against the receipt."""
    await edge.register()
    result = {"text": "ünïcode 🎉", "n": None, "list": [1, 2.5, {"deep": []}]}
    job = await edge.finish(edge.alice, result)
    answer = await edge.alice.get(f"/v1/jobs/{job}/result")
    assert answer.status_code == 200
    told = JobResult.model_validate_json(answer.text)
    assert told.result == result
    assert (str(told.job_id), told.state, told.attempt, told.miner_id) == (job, "COMPLETED", 1, "rig")
    assert told.result_digest == salted_digest(bytes.fromhex(told.result_salt), result)

    receipt = (await edge.alice.get(f"/v1/jobs/{job}/receipt")).json()
    assert receipt["metadata"]["result_digest"] == told.result_digest
    verified = verify_receipt(receipt, {edge.coordinator.signing_key_id}, {"rig": edge.keys["rig"].key_id})
    assert verified.job_id == job
    assert (await edge.alice.get(f"/v1/jobs/{job}/receipts")).json()["items"] == [receipt]
    assert (await edge.admin.get(f"/v1/jobs/{job}/result")).json()["result"] == result


async def test_a_large_result_comes_from_the_blob_store(edge: Bench) -> None:
    """A result over 64 KiB is stored as a blob, and reads the same."""
    await edge.register()
    result = {"text": "x" * 300_000}
    job = await edge.finish(edge.alice, result)
    stored = edge.coordinator.adapters.log.payloads("result", [UUID(job)])[UUID(job)]
    assert stored.body.startswith(b'{"blob":')
    assert (await edge.alice.get(f"/v1/jobs/{job}/result")).json()["result"] == result


async def test_a_result_that_looks_like_a_reference_is_shown_as_it_is(edge: Bench) -> None:
    """A miner's document `{"blob": …}` is not taken for our own reference to a stored document."""
    await edge.register()
    content = b'{"stolen": true}'
    digest = sha256(content).hexdigest()
    assert (await edge.rig.put(f"/v1/blobs/{digest}", content=content)).status_code == 201
    job = await edge.finish(edge.alice, {"blob": f"blob:{digest}"})
    told = (await edge.alice.get(f"/v1/jobs/{job}/result")).json()
    assert told["result"] == {"blob": f"blob:{digest}"}


async def test_a_completed_job_that_the_log_lacks_is_asked_for_again(edge: Bench) -> None:
    """Where tables and log differ, a receipt is 503 UNAVAILABLE, never 500."""
    await edge.register()
    job = await edge.finish(edge.alice, {"text": "hello"})
    other = str(uuid4())
    with edge.coordinator.adapters.database.transaction() as tables:
        [row] = [row for row in tables.query("projector_all_jobs") if row["job_id"] == job]
        tables.put("jobs", [{**row, "job_id": other}])
    answer = await edge.alice.get(f"/v1/jobs/{other}/receipt")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert "Retry-After" in answer.headers


async def test_a_result_that_was_erased_is_gone(edge: Bench) -> None:
    """After an erasure the result is 410 and the receipt still there."""
    await edge.register()
    job = await edge.finish(edge.alice, {"ok": True})
    assert (await edge.alice.get(f"/v1/jobs/{job}/result")).status_code == 200
    erased = await edge.alice.post(f"/v1/jobs/{job}/erase", json={"reason": "no longer needed"})
    assert erased.status_code == 200
    answer = await edge.alice.get(f"/v1/jobs/{job}/result")
    assert (answer.status_code, answer.json()["code"]) == (410, "CONTENT_EXPIRED")
    assert (await edge.alice.get(f"/v1/jobs/{job}/receipt")).status_code == 200


async def test_a_receipt_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """It follows from the log: the same bytes and the same ETag, from a process that never made it before."""
    async with an_edge(tmp_path) as edge:
        await edge.register()
        job = await edge.finish(edge.alice, {"text": "ünïcode"})
        first = await edge.alice.get(f"/v1/jobs/{job}/receipt")
        listed = await edge.alice.get(f"/v1/jobs/{job}/receipts")
        await edge.finish(edge.alice, {"another": True})
    async with an_edge(tmp_path) as edge:
        again = await edge.alice.get(f"/v1/jobs/{job}/receipt")
        assert (first.content, first.headers["etag"]) == (again.content, again.headers["etag"])
        assert listed.content == (await edge.alice.get(f"/v1/jobs/{job}/receipts")).content
        assert job == again.json()["job_id"]


async def test_a_job_without_a_result_says_why(edge: Bench) -> None:
    """409 CONFLICT_STATE with the job's own error, for a failed and for a cancelled job."""
    await edge.register()
    failed = (await edge.submit(edge.alice, max_attempts=1))["job_id"]
    offer = await edge.poll()
    body = {"attempt": offer["attempt"], "error_code": "OUT_OF_MEMORY", "error_message": "needs 12 GB"}
    answer = await edge.rig.post(f"/v1/miners/{failed}/fail", json=body)
    assert answer.status_code == 200
    await edge.reached(answer.json()["position"])
    for path in ("result", "receipt"):
        told = await edge.alice.get(f"/v1/jobs/{failed}/{path}")
        assert (told.status_code, told.json()["code"]) == (409, "CONFLICT_STATE")
        assert told.json()["error"] == {"code": "OUT_OF_MEMORY", "message": "needs 12 GB"}
        assert told.json()["state"] == "FAILED"
    shown = (await edge.alice.get(f"/v1/jobs/{failed}")).json()
    assert shown["error"] == {"code": "OUT_OF_MEMORY", "message": "needs 12 GB"}

    canceled = (await edge.submit(edge.alice))["job_id"]
    await edge.reached((await edge.alice.post(f"/v1/jobs/{canceled}/cancel")).json()["position"])
    told = await edge.alice.get(f"/v1/jobs/{canceled}/result")
    assert (told.status_code, told.json()["state"]) == (409, "CANCELED")


@pytest.mark.parametrize(
    "asked", [{"params": {"wait": "30"}}, {"headers": {"Prefer": "wait=30"}}], ids=["query", "header"]
)
async def test_a_read_waits_for_the_result(edge: Bench, asked: dict[str, Any]) -> None:
    """A waiting read answers as soon as the job is completed, not when its time is up."""
    await edge.register()
    job = (await edge.submit(edge.alice))["job_id"]
    waiting = [asyncio.create_task(edge.alice.get(f"/v1/jobs/{job}/result", **asked)) for _ in range(20)]
    assert (await edge.complete(await edge.poll(), {"ok": True})).status_code == 200
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 20)
    assert {answer.status_code for answer in answers} == {200}
    applied = {answer.headers.get("preference-applied") for answer in answers}
    assert applied == ({"wait=30"} if "headers" in asked else {None})


async def test_a_wait_that_is_over_is_not_ready(edge: Bench) -> None:
    """Where the job does not end in time the answer is 425, as without a wait."""
    job = (await edge.submit(edge.alice))["job_id"]
    answer = await edge.alice.get(f"/v1/jobs/{job}/result", params={"wait": "0.05"})
    assert (answer.status_code, answer.json()["code"]) == (425, "JOB_NOT_READY")


async def test_a_wait_ends_with_a_job_that_fails_too(edge: Bench) -> None:
    """Final is final: a cancelled job ends the wait with 409."""
    job = (await edge.submit(edge.alice))["job_id"]
    waiting = asyncio.create_task(edge.alice.get(f"/v1/jobs/{job}/result?wait=30"))
    assert (await edge.alice.post(f"/v1/jobs/{job}/cancel")).status_code == 200
    assert (await asyncio.wait_for(waiting, 20)).status_code == 409


async def test_nobody_waits_for_anothers_job(edge: Bench) -> None:
    """Another client's job is 404 at once."""
    job = (await edge.submit(edge.alice))["job_id"]
    answer = await asyncio.wait_for(edge.bob.get(f"/v1/jobs/{job}/result?wait=30"), 20)
    assert answer.status_code == 404


async def test_a_result_is_one_json_document(edge: Bench) -> None:
    """What is put together from stored bytes is valid JSON, whatever the miner's keys are called."""
    await edge.register()
    result = {'"},{"': "}", "result": {"result": 1}, "job_id": "x"}
    job = await edge.finish(edge.alice, result)
    told = json.loads((await edge.alice.get(f"/v1/jobs/{job}/result")).content)
    assert told["result"] == result
    assert told["job_id"] == job
