"""What a decision is told: turns looked-up states into `Facts`, and signs receipts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from coordinator.application.commands.payload_schemas import PayloadSchemas, check_spec
from coordinator.application.commands.preparing import Prepared
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.receipt import receipt_id, sign_receipt
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.facts import Facts, WorkDone
from coordinator.domain.job import JobComplete, JobFail, JobStart, JobState, JobSubmit, Queued, Running
from coordinator.domain.key import KeyCreate, KeyRotate
from coordinator.domain.messages import Millis
from coordinator.domain.name import name_stream
from coordinator.domain.service import ServiceRegister, ServiceRevise


class Deciding:
    """Gathers the facts of one decision. Pure but for the signing key it holds and its cache of schemas."""

    def __init__(self, signing_key: SigningKey, schemas: PayloadSchemas | None = None) -> None:
        self._key = signing_key
        self._schemas = schemas or PayloadSchemas()

    def facts(
        self,
        prepared: Prepared,
        state: Any,
        lookup: Callable[[UUID], Any],
        now: Millis,
        misreference: Refusal | None = None,
    ) -> Facts:
        """The facts for `decide(state, prepared.command, …)`.

        `misreference`: what is wrong with the blobs that the command refers to.
        """
        command, principal = prepared.command, prepared.intent.principal
        match command:
            case JobSubmit():
                service = lookup(prepared.lookups[0])
                fault = misreference if state is None else None
                if fault is None and state is None and service is not None:
                    fault = self._schemas.check(service, command.payload)
                return Facts(
                    now,
                    principal,
                    prepared.stream,
                    service=service,
                    wanted=prepared.wanted,
                    payload_digest=prepared.payload_digest,
                    fingerprint=prepared.fingerprint,
                    fault=fault,
                )
            case JobComplete():
                miner = lookup(prepared.lookups[0])
                expected_key = None
                if isinstance(state, Running):
                    expected_key = state.started.miner_key
                elif miner is not None:
                    expected_key = miner.registered.public_key
                fault = _check_statement(state, command, expected_key) or misreference
                return Facts(now, principal, prepared.stream, miner=miner, fault=fault, seal=self.seal)
            case JobStart() | JobFail():
                return Facts(now, principal, prepared.stream, miner=lookup(prepared.lookups[0]))
            case ServiceRegister() | ServiceRevise():
                # What is registered already was checked then; each start registers the whole catalogue.
                known = state is not None and state.spec == command.spec
                fault = None if known else check_spec(command.spec)
                names = {name: lookup(name_stream(name)) for name in prepared.names}
                return Facts(now, principal, prepared.stream, names=names, fault=fault)
            case KeyCreate() | KeyRotate():
                return Facts(
                    now,
                    principal,
                    prepared.stream,
                    key_salt=prepared.key_salt,
                    key_digest=prepared.key_digest,
                )
        return Facts(now, principal, prepared.stream)

    def seal(self, work: WorkDone) -> dict[str, Any]:
        """The signed receipt of this work."""
        return sign_receipt(
            self._key,
            {
                "version": "1.0",
                "receipt_id": receipt_id(work.job_id, work.attempt),
                "job_id": work.job_id,
                "provider": work.miner_id,
                "client": work.client,
                "units": work.units,
                "unit_type": "gpu_seconds",
                "price": work.price,
                "started_at": work.started_at // 1000,
                "completed_at": work.completed_at // 1000,
                "metadata": {
                    "attempt": work.attempt,
                    "service": work.service,
                    "payload_digest": work.payload_digest,
                    "result_digest": work.result_digest,
                    "statement": dict(work.statement),
                },
            },
        )


def _check_statement(state: JobState, command: JobComplete, expected_key: str | None) -> Refusal | None:
    """Whether the (validly signed) statement is by the right key, and about this work."""
    if not isinstance(state, Queued | Running):
        return None  # there is nothing to prove: the decision answers or refuses without it
    said = command.statement
    if said["signature"]["key_id"] != expected_key:
        return Refusal(Code.INVALID_STATEMENT, "the statement is not signed with the miner's registered key")
    expected = {
        "job_id": str(state.job.job_id),
        "attempt": command.attempt,
        "miner_id": command.miner_id,
        "session_id": command.session_id,
        "service": state.job.service,
        "payload_digest": state.job.payload_digest,
    }
    wrong = [name for name, value in expected.items() if said[name] != value]
    if wrong:
        return Refusal(Code.INVALID_STATEMENT, f"the statement's {', '.join(wrong)} is not this job's")
    return None
