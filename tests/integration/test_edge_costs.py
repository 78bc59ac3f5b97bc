"""Refused commands leave nothing, results fit their schema, prices have limits: on a whole coordinator."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.crypto.receipt import verify_receipt
from coordinator.domain.miner import miner_stream
from coordinator.runtime.signing import signing_key
from tests.integration.edge_bench import Bench

LARGE = "x" * 70_000
NUMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"type": "number"}}, "text": {"type": "string"}},
    "additionalProperties": False,
}
SPEC: dict[str, Any] = {
    "id": "numbers",
    "name": "Numbers",
    "category": "development_tools",
    "description": "Numbers in, numbers out.",
    "input_schema": NUMBERS,
    "output_schema": NUMBERS,
    "pricing": {"unit": "second", "amount": "0.5"},
    "max_units": {"fixed": "0.01", "each": [{"member": "a", "default": 0, "units": "0.005"}]},
}
ABLE = {"services": ["numbers"]}


async def registered(edge: Bench) -> None:
    answer = await edge.admin.post("/v1/registry/services", json=SPEC)
    assert answer.status_code in (200, 201), answer.text
    await edge.reached(answer.json()["position"])


def blobs(edge: Bench) -> set[Path]:
    """The files in the blob store, temporary ones included."""
    return {path for path in (edge.coordinator.settings.data_dir / "blobs").rglob("*") if path.is_file()}


async def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_refused_command_leaves_no_blob(any_edge: Bench) -> None:
    """Large payloads and results are stored once they are accepted, and once only."""
    edge = any_edge
    await registered(edge)
    await edge.register(capabilities=ABLE)

    async def submit(payload: Any, key: str = "key", **fields: Any) -> Any:
        body = {"service": "numbers", "payload": payload, **fields}
        return await edge.alice.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})

    assert (404, "SERVICE_NOT_FOUND") == await code(await submit({"text": LARGE}, service="none"))
    assert (422, "INVALID_PAYLOAD") == await code(await submit({"text": LARGE, "b": 1}))
    foreign = {"text": "blob:" + "0" * 64, "a": [0.5] * 20_000}
    assert (404, "BLOB_NOT_FOUND") == await code(await submit(foreign))
    assert set() == blobs(edge)
    accepted = await submit({"text": LARGE})
    assert 201 == accepted.status_code
    kept = blobs(edge)
    assert 1 == len(kept)
    assert accepted.json()["job_id"] == (await submit({"text": LARGE})).json()["job_id"]
    assert (409, "IDEMPOTENCY_MISMATCH") == await code(await submit({"text": LARGE + "y"}))

    offer = await edge.poll()
    for changes, expected in (
        ({"job_id": "00000000-0000-4000-8000-000000000000"}, (404, "JOB_NOT_FOUND")),
        ({"attempt": 2}, (409, "STALE_ATTEMPT")),
        ({"payload_digest": "0" * 64}, (422, "INVALID_STATEMENT")),
    ):
        assert expected == await code(await edge.complete({**offer, **changes}, {"text": LARGE}))
    late = await edge.complete(offer, {"text": LARGE}, session_id="another-session")
    assert (422, "INVALID_STATEMENT") == await code(late)
    assert kept == blobs(edge)
    assert 200 == (await edge.complete(offer, {"text": LARGE + "result"})).status_code
    assert 2 == len(blobs(edge))


async def test_a_result_against_the_schema_fails_the_attempt(any_edge: Bench) -> None:
    """INVALID_RESULT for the miner, another attempt for the job, no receipt; then the job is completed."""
    edge = any_edge
    await registered(edge)
    await edge.register(capabilities=ABLE)
    job = (await edge.submit(edge.alice, service="numbers", payload={}))["job_id"]
    offer = await edge.poll()
    refused = await edge.complete(offer, {"a": ["a secret"]})
    assert (422, "INVALID_RESULT") == await code(refused)
    assert (
        "numbers: a/0 does not fit the schema's type: number expected, string found; the attempt has failed"
        == refused.json()["detail"]
    )
    assert (422, "INVALID_RESULT") == await code(await edge.complete(offer, {"a": ["a secret"]}))
    again = await edge.poll()
    assert (job, 2) == (again["job_id"], again["attempt"])
    done = await edge.complete(again, {"a": [1, 2.5]})
    assert 200 == done.status_code
    assert {"a": [1, 2.5]} == (await edge.alice.get(f"/v1/jobs/{job}/result")).json()["result"]
    assert 1 == len((await edge.alice.get(f"/v1/jobs/{job}/receipts")).json()["items"])


async def test_a_revision_changes_no_waiting_job(any_edge: Bench) -> None:
    """Schema and price are those of the version that a job was submitted under."""
    edge = any_edge
    await registered(edge)
    job = (await edge.submit(edge.alice, service="numbers", payload={}))["job_id"]
    revised = {**SPEC, "output_schema": {"required": ["words"]}, "pricing": {"unit": "second", "amount": "9"}}
    answer = await edge.admin.put("/v1/registry/services/numbers", json=revised)
    assert 200 == answer.status_code, answer.text
    await edge.register(capabilities=ABLE)
    offer = await edge.poll()
    assert job == offer["job_id"]
    await asyncio.sleep(0.002)  # some billable time
    done = await edge.complete(offer, {"a": []})
    assert 200 == done.status_code, done.text
    receipt = done.json()["promise"]
    assert float(receipt["units"]) * 0.5 == float(receipt["price"])


async def test_prices_end_at_the_list_price_and_units_at_the_limit(any_edge: Bench) -> None:
    """A dear miner gets no job without a limit, a miner without a price no free one; the bill ends early."""
    edge = any_edge
    await registered(edge)
    await edge.register(capabilities={**ABLE, "price": "999999999999"})
    await edge.register("other-rig", capabilities=ABLE)
    free = (await edge.submit(edge.alice, service="numbers", payload={}, constraints={"max_price": "0"}))[
        "job_id"
    ]
    usual = (await edge.submit(edge.alice, service="numbers", payload={"a": [1, 2]}))["job_id"]
    offer = await edge.poll("other-rig")
    assert usual == offer["job_id"]
    tokens = OfferTokens(signing_key(edge.coordinator.settings))
    for name, job, reason in (
        ("rig", usual, None),
        ("rig", free, "asks 999999999999 a unit, the limit is 0"),
        ("other-rig", free, "names no price and so asks the list price of 0.5 a unit, the limit is 0"),
    ):
        without = await edge.miner(name).post(f"/v1/miners/{job}/start", json={"attempt": 1})
        miner = await edge.coordinator.bus.state(miner_stream(name))
        token = tokens.token(job, 1, miner.registered.profile)
        body = {"attempt": 1, "token": token}
        claim = await edge.miner(name).post(f"/v1/miners/{job}/start", json=body)
        if reason is not None:
            # Without the token of an offer it learns nothing of the job.
            assert (403, "NOT_OFFERED") == await code(without)
            assert (409, "NOT_CAPABLE") == await code(claim)
            assert reason in claim.json()["detail"]
    await asyncio.sleep(0.06)  # three times the limit of units
    done = await edge.complete(offer, {}, "other-rig", worked_ms=60)
    receipt = done.json()["promise"]
    assert ("0.020", "0.010000") == (receipt["units"], receipt["price"])
    assert 0.05 < float(receipt["metadata"]["measured_units"])
    await edge.reached(done.json()["position"])
    whole = (await edge.alice.get(f"/v1/jobs/{usual}/receipt")).json()
    miner_keys = {"other-rig": edge.keys["other-rig"].key_id}
    verify_receipt(whole, [edge.coordinator.signing_key_id], miner_keys)
    assert [receipt[name] for name in ("units", "price")] == [whole[name] for name in ("units", "price")]
    assert "QUEUED" == (await edge.alice.get(f"/v1/jobs/{free}")).json()["state"]
    assert "0.5" not in json.dumps((await edge.alice.get(f"/v1/jobs/{usual}")).json()["constraints"])
