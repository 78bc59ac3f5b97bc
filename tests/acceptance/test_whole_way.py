"""One job's whole way, in every mode and over every transport, with the programs that users run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from coordinator.crypto.canonical import salted_digest
from tests.harness.stage import Stage

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
            # 4. A repeat is the same job.
            again = await client.submit("checksum", {"text": texts[0]}, idempotency_key="key-0")
            assert submitted[0].job_id == again.job_id
        # 5. Both programs stop in order, and what they leave is in order.
        assert 0 == miner.stop()
        if mode == "embedded":
            assert 0 == coordinator.stop()
        checked = await stage.check()
        assert {"COMPLETED": len(texts)} == checked.states()
        assert {1: len(texts)} == checked.starts()
        assert 0 == coordinator.stop()
