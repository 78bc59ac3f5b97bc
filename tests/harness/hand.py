"""A miner by hand: what the protocol page asks for and no more, so that tests can say what they like."""

from __future__ import annotations

import secrets
from typing import Any

from coordinator.crypto.canonical import salted_digest
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.crypto.statement import sign_statement
from coordinator.wire.amqp.rpc import AmqpRpc
from tests.harness.executor import SERVICE
from tests.harness.stage import SIGNING_SEED

SALT = "ab" * 16
TOKENS = OfferTokens(SigningKey.from_hex(SIGNING_SEED))


class HandMiner:
    """One session. It takes no offers: it claims what it is told to, with tokens that it computes as a
    coordinator does."""

    def __init__(self, rpc: AmqpRpc, name: str, *, services: tuple[str, ...] = (SERVICE,)) -> None:
        self.rpc = rpc
        self.name = name
        self.session = f"session-{secrets.token_hex(6)}"
        self.key = SigningKey.generate()
        self.profile = ""
        self._services = services

    def names(self, job_id: str, attempt: int) -> dict[str, Any]:
        return {"job_id": job_id, "attempt": attempt, "miner_id": self.name, "session_id": self.session}

    def token(self, job_id: str, attempt: int) -> dict[str, Any]:
        """The token that the offer of this attempt to this miner has, or would have."""
        return {"token": TOKENS.token(job_id, attempt, self.profile)}

    async def register(self, region: str = "by-hand") -> dict[str, Any]:
        """As a profile of its own, so that it takes no work away from others."""
        answer = await self.rpc.call(
            "miner.register",
            {
                "miner_id": self.name,
                "session_id": self.session,
                "capabilities": {"services": self._services, "region": region},
                "public_key": self.key.key_id,
            },
        )
        self.profile = answer.get("profile", self.profile)
        return answer

    async def start(self, job_id: str, attempt: int = 1) -> dict[str, Any]:
        return await self.rpc.call(
            "job.start", {**self.names(job_id, attempt), **self.token(job_id, attempt)}
        )

    async def fail(self, job_id: str, attempt: int = 1, *, retryable: bool = True) -> dict[str, Any]:
        fields = {"error_code": "BY_HAND", "retryable": retryable}
        return await self.rpc.call(
            "job.fail", {**self.names(job_id, attempt), **self.token(job_id, attempt), **fields}
        )

    async def release(self, job_id: str, attempt: int = 1) -> dict[str, Any]:
        return await self.rpc.call("job.release", self.names(job_id, attempt))

    async def complete(self, job: dict[str, Any], attempt: int = 1, **result: Any) -> dict[str, Any]:
        return await self.rpc.call("job.complete", self.completion(job, attempt, **result))

    def completion(self, job: dict[str, Any], attempt: int = 1, **result: Any) -> dict[str, Any]:
        """The fields of `job.complete`. `job`: the data of its `job.submitted`, for the payload's digest."""
        statement = {
            "version": "1",
            **self.names(job["job_id"], attempt),
            "service": job["service"],
            "payload_digest": job["payload_digest"],
            "result_digest": salted_digest(bytes.fromhex(SALT), result),
            "started_at_ms": job["at"],
            "completed_at_ms": job["at"] + 1000,
        }
        return {
            **self.names(job["job_id"], attempt),
            **self.token(job["job_id"], attempt),
            "result": result,
            "result_salt": SALT,
            "statement": sign_statement(self.key, statement),
        }
