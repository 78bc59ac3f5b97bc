"""One job's whole way, in every mode and over every transport, with the programs that users run."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import httpx
import pytest

from coordinator.crypto.canonical import salted_digest
from tests.harness.processes import Process
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually

JOBS = 12
LARGE_TEXT = "x" * 65_000  # with its JSON around it just over what is kept in a row


@pytest.mark.parametrize(
    ("mode", "transport"), [("standard", "amqp"), ("standard", "http"), ("embedded", "http")]
)
async def test_whole_way(request: pytest.FixtureRequest, tmp_path: Path, mode: str, transport: str) -> None:
    """Submitted, offered, claimed, run, paid and readable: the same over AMQP, HTTP and in one process."""
    urls: dict[str, str] = {}
    if mode == "standard":
        urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")}
    with Stage(tmp_path, **urls) as stage:
        coordinator = stage.coordinator()
        await stage.ready()
        miner = stage.program_miner("rig1", transport=transport)
        async with stage.client() as client:
            # 1. Jobs that say what they are, one of them with a payload that is stored as a blob.
            texts = [f"text {n}" for n in range(JOBS)] + [LARGE_TEXT + "💠" * 200]
            submitted = [
                await client.submit("checksum", {"text": text}, idempotency_key=f"key-{n}")
                for n, text in enumerate(texts)
            ]
            stage.accepted.update(s.job_id for s in submitted)
            # 2. Their results are those of the work, under the digests that were signed.
            for text, job in zip(texts, submitted, strict=True):
                done = await job.wait(timeout=60)
                assert ("COMPLETED", 1, "rig1") == (done.state, done.attempt, done.assigned_miner_id)
                result = await job.result()
                assert hashlib.sha256(text.encode()).hexdigest() == result.result["digests"][0]["digest"]
                salt = bytes.fromhex(result.result_salt)
                assert salted_digest(salt, result.result) == result.result_digest
                # 3. Their receipts verify offline.
                receipt = await job.receipt()
                verified = receipt.verify([stage.coordinator_key], {"rig1": stage.miner_key("rig1")})
                assert (job.job_id, True) == (verified.job_id, verified.miner_key_trusted)
            # 4. One trace: from the request, through the log, to the miner's log lines and back.
            await _traced(stage)
            # 5. A repeat is the same job.
            again = await client.submit("checksum", {"text": texts[0]}, idempotency_key="key-0")
            assert submitted[0].job_id == again.job_id
        # 6. Both programs stop in order, and what they leave is in order.
        assert 0 == miner.stop()
        if mode == "embedded":
            assert 0 == coordinator.stop()
        checked = await stage.check()
        assert {"COMPLETED": len(texts) + 1} == checked.states()
        assert {1: len(texts) + 1} == checked.starts()
        assert 0 == coordinator.stop()


async def _traced(stage: Stage) -> None:
    """A job that is claimed before it is done, for a client that says which trace it belongs to."""
    trace_id = secrets.token_hex(16)
    async with httpx.AsyncClient(base_url=stage.urls["main"], headers={"X-Api-Key": ALICE}) as http:
        answer = await http.post(
            "/v1/jobs",
            json={"service": "checksum", "payload": {"text": LARGE_TEXT + "🔎" * 200}},
            headers={"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"},
        )
    job_id = answer.json()["job_id"]
    stage.accepted.add(job_id)
    await stage.ended([job_id])
    entries = stage.log.entries(job_id=job_id)
    assert ["job.submitted.v1", "job.started.v1", "job.completed.v1"] == [e.topic for e in entries]
    assert [trace_id] * 3 == [e.metadata["traceparent"].split("-")[1] for e in entries]
    assert all(e.metadata["command_id"] for e in entries)
    [miner] = [process for process in stage.processes if process.name.startswith("rig1")]
    await eventually(lambda: "completed" in _lines_about(miner, job_id), "the miner says it is done")
    assert all(trace_id in line for line in _lines_about(miner, job_id).splitlines())


def _lines_about(process: Process, job_id: str) -> str:
    lines = process.log.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if job_id in line)
