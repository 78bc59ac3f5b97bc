"""Passports over HTTP and by the SDK: of jobs with several attempts, with attestations, for their owners."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from coordinator.audit.passport.reading import read_passport
from coordinator.audit.passport.trust import trust_of
from coordinator.audit.passport.verify import Given, verify_passport
from coordinator.client import AsyncCoordinator, NotReady
from coordinator.crypto.keys import SigningKey
from tests.harness.aitbc import aitbc_accepts
from tests.integration.edge_bench import Bench, an_edge, key_of

ATTESTER = SigningKey(b"a" * 32)
PAYLOAD = {"text": "a payload that no passport quotes"}
RESULT = {"text": "a result that no passport quotes"}
MOST_SECONDS = 0.05
"""Of processor time, for a passport of a job with three attempts."""


async def tried_thrice(edge: Bench) -> str:
    """A job that two miners fail and the first one then completes; its id."""
    job = str((await edge.submit(edge.alice, payload=PAYLOAD))["job_id"])
    for name in ("rig", "other-rig"):
        await edge.register(name)
        offer = await edge.poll(name)
        body = {
            "attempt": offer["attempt"],
            "error_code": "BROKEN",
            "error_message": "a fan",
            "retryable": True,
        }
        answer = await edge.miner(name).post(f"/v1/miners/{job}/fail", json=body)
        assert answer.status_code == 200, answer.text
        drained = await edge.miner(name).post("/v1/miners/drain", json={})
        assert drained.status_code == 200, drained.text
    await edge.register("rig")
    answer = await edge.complete(await edge.poll("rig"), RESULT)
    assert answer.status_code == 200, answer.text
    return job


def sdk(edge: Bench, name: str) -> AsyncCoordinator:
    return AsyncCoordinator("http://edge", key_of(name), transport=httpx.ASGITransport(edge.app), tries=1)


async def test_a_passport_of_three_attempts_verifies_offline(any_edge: Bench) -> None:
    """In both modes: it waits for its checkpoint, has every attempt, and verifies with keys alone."""
    edge = any_edge
    job = await tried_thrice(edge)
    answer = await edge.alice.get(f"/v1/jobs/{job}/passport", params={"wait": "30", "with_salts": "true"})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert 9 == len(document["events"])
    miners = {name: key.key_id for name, key in edge.keys.items()}
    trust = trust_of([edge.coordinator.signing_key_id, document["log_key"]], miners=miners)
    verdict = verify_passport(read_passport(answer.content), trust, Given(PAYLOAD, RESULT))
    assert [] == [check for check in verdict.checks if not check.ok]
    assert verdict.history is not None
    assert [(1, "rig", "failed"), (2, "other-rig", "failed"), (3, "rig", "completed")] == [
        (hold.attempt, hold.miner_id, hold.outcome) for hold in verdict.history.holds
    ]
    topics = sorted(event["topic"] for event in document["relied_on"])
    assert [
        "miner.registered.v1",
        "miner.registered.v1",
        "miner.registered.v1",
        "service.registered.v1",
        "signing_key.introduced.v1",
    ] == topics
    # The same from the SDK, for an admin, and without salts unless they are asked for.
    async with sdk(edge, "root") as admin:
        made = await admin.job(job).passport()
    assert "salts" not in made.document()
    assert document["receipt"] == made.document()["receipt"]
    assert "no passport quotes" not in json.dumps(document)


async def test_a_passport_costs_little(edge: Bench) -> None:
    """A passport of a job with three attempts takes less than 50 ms of processor time."""
    job = UUID(await tried_thrice(edge))
    await edge.alice.get(f"/v1/jobs/{job}/passport", params={"wait": "30"})
    passports = edge.app.state.context.passports
    spent = []
    for _ in range(10):
        begun = time.process_time()
        assert await passports.of(job) is not None
        spent.append(time.process_time() - begun)
    assert min(spent) < MOST_SECONDS


async def test_passports_are_for_final_jobs_of_the_asker(edge: Bench) -> None:
    """425 until the job is final, 404 for another client's and for no job, 422 for a bad wait."""
    job = (await edge.submit(edge.alice))["job_id"]
    path = f"/v1/jobs/{job}/passport"

    async def told(client: httpx.AsyncClient, path: str = path, **params: str) -> tuple[int, str]:
        answer = await client.get(path, params=params)
        return answer.status_code, answer.json()["code"]

    assert (425, "JOB_NOT_READY") == await told(edge.alice)
    assert (425, "JOB_NOT_READY") == await told(edge.alice, wait="0.2")
    assert (404, "JOB_NOT_FOUND") == await told(edge.bob)
    assert (404, "JOB_NOT_FOUND") == await told(edge.alice, f"/v1/jobs/{uuid4()}/passport")
    assert (403, "FORBIDDEN") == await told(edge.rig)
    assert (401, "UNAUTHORIZED_KEY") == await told(edge.anyone)
    assert (422, "INVALID_PAYLOAD") == await told(edge.alice, wait="soon")
    assert (422, "INVALID_PAYLOAD") == await told(edge.alice, with_salts="perhaps")
    async with sdk(edge, "alice") as alice:
        with pytest.raises(NotReady):
            await alice.job(job).passport(timeout=0)


async def test_a_passport_waits_for_its_checkpoint(edge: Bench) -> None:
    """404 NOT_IN_CHECKPOINT with the next step while no published checkpoint has the job's end."""
    await edge.register()
    job = await edge.finish(edge.alice, {"text": "x"})
    # A quorum that no witness fills: nothing is published.
    unpublished = edge.again(proofs=replace(edge.coordinator.proofs, quorum=1))
    answer = await unpublished.alice.get(f"/v1/jobs/{job}/passport", params={"wait": "0.3"})
    assert (404, "NOT_IN_CHECKPOINT") == (answer.status_code, answer.json()["code"])
    assert "`wait`" in answer.json()["detail"]
    async with sdk(unpublished, "alice") as alice:
        with pytest.raises(NotReady, match="NOT_IN_CHECKPOINT"):
            await alice.job(job).passport(timeout=0.3)
    without = edge.again(proofs=None)
    refused = await without.alice.get(f"/v1/jobs/{job}/passport")
    assert (503, "UNAVAILABLE") == (refused.status_code, refused.json()["code"])


async def test_a_cancelled_job_has_a_passport(edge: Bench) -> None:
    """Its end is an event as any other; it has no receipt."""
    job = (await edge.submit(edge.alice))["job_id"]
    cancelled = await edge.alice.post(f"/v1/jobs/{job}/cancel", json={"reason": "too late"})
    assert cancelled.status_code == 200
    async with sdk(edge, "alice") as alice:
        made = await alice.job(job).passport(with_salts=True)
    assert made.document()["receipt"] is None
    assert {"payload"} == set(made.document()["salts"])
    verdict = verify_passport(
        read_passport(json.dumps(made.document()).encode()), trust_of([edge.coordinator.signing_key_id])
    )
    assert verdict.ok
    assert verdict.history is not None
    assert "CANCELED" == verdict.history.state


async def test_receipts_are_attested_by_the_key_of_the_settings(tmp_path: Path) -> None:
    """RECEIPT_ATTESTATION_KEY_HEX attests every receipt, in a passport too; AITBC's verifier accepts it."""
    seed = (b"a" * 32).hex()
    async with an_edge(tmp_path, receipt_attestation_key_hex=seed) as edge:
        await edge.register()
        job = await edge.finish(edge.alice, {"text": "x"})
        answer = await edge.alice.get(f"/v1/jobs/{job}/passport", params={"wait": "30"})
        receipt: dict[str, Any] = (await edge.alice.get(f"/v1/jobs/{job}/receipt")).json()
        keys = (await edge.anyone.get("/.well-known/coordinator/keys")).json()
    passport = answer.json()
    assert receipt == passport["receipt"]
    assert [ATTESTER.key_id] == [a["key_id"] for a in receipt["attestations"]]
    assert ATTESTER.key_id == keys["attestation_key_id"]
    assert aitbc_accepts(receipt)
    assert not aitbc_accepts({**receipt, "price": "9"})
    verdict = verify_passport(read_passport(answer.content), trust_of([edge.coordinator.signing_key_id]))
    assert verdict.ok
    assert verdict.receipt is not None
    assert [(ATTESTER.key_id, True)] == [(a.key_id, a.covers_signature) for a in verdict.receipt.attestations]
