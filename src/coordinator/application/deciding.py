"""What a decision is told: turns looked-up states into `Facts`, and signs receipts."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any
from uuid import UUID

import jsonschema_rs

from coordinator.application.preparation import Prepared
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.receipt import receipt_id, sign_receipt
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.facts import Facts, WorkDone
from coordinator.domain.job import JobComplete, JobFail, JobStart, JobState, JobSubmit, Queued, Running
from coordinator.domain.messages import Millis
from coordinator.domain.service import RegisteredService, ServiceRegister, ServiceRevise

MAX_COMPILED_SCHEMAS = 256


class Deciding:
    """Gathers the facts of one decision. Pure but for the signing key it holds and its cache of schemas."""

    def __init__(self, signing_key: SigningKey) -> None:
        self._key = signing_key
        self._validators = _Validators()

    def facts(
        self,
        prepared: Prepared,
        state: Any,
        lookup: Callable[[UUID], Any],
        now: Millis,
        unowned: Collection[str] = (),
    ) -> Facts:
        """The facts for `decide(state, prepared.command, …)`.

        `unowned`: blobs (of this command) that its sender does not own.
        """
        command, principal = prepared.command, prepared.intent.principal
        match command:
            case JobSubmit():
                service = lookup(prepared.lookups[0])
                fault = _unowned(unowned) if state is None else None
                if fault is None and state is None and service is not None:
                    fault = _check_payload(self._validators.of(service), service.spec.id, command.payload)
                return Facts(
                    now,
                    principal,
                    prepared.stream,
                    service=service,
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
                fault = _check_statement(state, command, expected_key) or _unowned(unowned)
                return Facts(now, principal, prepared.stream, miner=miner, fault=fault, seal=self.seal)
            case JobStart() | JobFail():
                return Facts(now, principal, prepared.stream, miner=lookup(prepared.lookups[0]))
            case ServiceRegister() | ServiceRevise():
                # What is registered already was checked then; each start registers the whole catalogue.
                known = state is not None and state.spec == command.spec
                fault = None if known else _check_spec(command)
                return Facts(now, principal, prepared.stream, fault=fault)
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


def _check_payload(
    validator: jsonschema_rs.Draft202012Validator, service: str, payload: dict[str, Any]
) -> Refusal | None:
    """What the service's input schema says against this payload; it names places, and shows no values."""
    if validator.is_valid(payload):
        return None
    problems = []
    for problem, _ in zip(validator.iter_errors(payload), range(3), strict=False):
        place = "/".join(str(part) for part in problem.instance_path) or "payload"
        keyword = str(problem.schema_path[-1]) if problem.schema_path else "schema"
        problems.append(f"{place} does not fit the schema's {keyword}")
    return Refusal(Code.INVALID_PAYLOAD, f"{service}: " + "; ".join(problems))


def _check_spec(command: ServiceRegister | ServiceRevise) -> Refusal | None:
    for name, schema in (("input", command.spec.input_schema), ("output", command.spec.output_schema)):
        try:
            _compile(json.dumps(schema))
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            return Refusal(Code.INVALID_PAYLOAD, f"{name}_schema is not a JSON Schema: {str(error)[:200]}")
    return None


class _Validators:
    """Compiled input schemas, by service and version; the least lately made goes first."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, int], jsonschema_rs.Draft202012Validator] = {}

    def of(self, service: RegisteredService) -> jsonschema_rs.Draft202012Validator:
        key = (service.spec.id, service.version)
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = _compile(json.dumps(service.spec.input_schema))
            if len(self._compiled) > MAX_COMPILED_SCHEMAS:
                del self._compiled[next(iter(self._compiled))]
        return found


def _compile(schema: str) -> jsonschema_rs.Draft202012Validator:
    # No retriever: a schema that points elsewhere is refused instead of fetched.
    return jsonschema_rs.Draft202012Validator(json.loads(schema), retriever=_refuse)


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema may not refer to {uri}")


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


def _unowned(blobs: Collection[str]) -> Refusal | None:
    if not blobs:
        return None
    return Refusal(
        Code.BLOB_NOT_FOUND, f"no such blob of yours: {', '.join(sorted(blobs)[:3])}; upload it first"
    )
