"""Makes many jobs in the normal way: commands through the bus, and the followers behind it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from coordinator.application.ports import Intent
from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import sign_statement
from coordinator.domain.job import JobCancel, JobComplete, JobSubmit
from coordinator.domain.messages import Command, Principal, Role
from coordinator.domain.miner import MinerRegister
from coordinator.runtime.bootstrap import build
from coordinator.runtime.coordinator import CoordinatorProcess
from coordinator.runtime.settings import Settings
from coordinator.wire.answers import Accepted

CLIENT: Final = "bench"
MINER: Final = "rig"
SESSION: Final = "bench-session"
BATCH: Final = 400
COMPLETED, CANCELED = 0.1, 0.8
"""Fractions of all jobs; the rest is queued."""
TTL_SECONDS: Final = 604_800
CATCH_UP_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Filled:
    """The ids of the jobs."""

    jobs: list[str]
    completed: list[str]


async def fill(settings: Settings, jobs: int) -> Filled:
    """Make `jobs` jobs in an empty coordinator, and stop it again."""
    coordinator = build(settings)
    await coordinator.start()
    try:
        client, miner = Principal(CLIENT, Role.CLIENT), Principal(MINER, Role.MINER)
        ids = []
        for numbers in _batches(range(jobs)):
            submits = [
                JobSubmit(service="checksum", payload={"text": str(n)}, ttl_seconds=TTL_SECONDS)
                for n in numbers
            ]
            answers = await _handle(coordinator, client, submits)
            ids += [str(answer.body["job_id"]) for answer in answers]
        canceled = ids[: int(jobs * CANCELED)]
        completed = ids[len(canceled) : len(canceled) + int(jobs * COMPLETED)]
        for some in _batches(canceled):
            await _handle(coordinator, client, [JobCancel(job_id=UUID(job)) for job in some])
        key = SigningKey.generate()
        register = {
            "miner_id": MINER,
            "session_id": SESSION,
            "capabilities": {"services": ["checksum"]},
            "public_key": key.key_id,
        }
        await _handle(coordinator, miner, [MinerRegister.model_validate(register)])
        for some in _batches(completed):
            payloads = coordinator.adapters.log.payloads("payload", [UUID(job) for job in some])
            completions = [
                _completion(key, job, hashlib.sha256(stored.salt + stored.body).hexdigest())
                for job in some
                if (stored := payloads[UUID(job)])
            ]
            await _handle(coordinator, miner, completions)
        if not await coordinator.watermarks.reached("projector", coordinator.feed.head, CATCH_UP_SECONDS):
            raise SystemExit("bench: the projector does not keep up")
        return Filled(ids, completed)
    finally:
        await coordinator.stop()


async def _handle(
    coordinator: CoordinatorProcess, sender: Principal, commands: Sequence[Command]
) -> list[Accepted]:
    answers = await coordinator.gateway.handle([Intent(command, sender) for command in commands])
    refused = [answer for answer in answers if not isinstance(answer, Accepted)]
    if refused:
        raise SystemExit(f"bench: {refused[0]}")
    return [answer for answer in answers if isinstance(answer, Accepted)]


def _batches(items: Any) -> Iterator[Any]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _completion(key: SigningKey, job: str, payload_digest: str) -> JobComplete:
    """A claim and a result in one command, as a miner may send for instant work."""
    result = {"algorithm": "sha256", "digests": [{"input": "text", "digest": "0" * 64, "size": 1}]}
    salt, now = os.urandom(16), time.time_ns() // 1_000_000
    names = {"job_id": job, "attempt": 1, "miner_id": MINER, "session_id": SESSION}
    statement = {
        "version": "1",
        **names,
        "service": "checksum",
        "payload_digest": payload_digest,
        "result_digest": salted_digest(salt, result),
        "started_at_ms": now,
        "completed_at_ms": now,
    }
    fields = {**names, "result": result, "result_salt": salt.hex()}
    return JobComplete.model_validate({**fields, "statement": sign_statement(key, statement)})
