"""The miner's signed statement about an attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from coordinator.crypto.signature import VerificationFailed
from coordinator.crypto.statement import StatementVerifier, verify_partial_statement
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import (
    AttemptEnded,
    Canceled,
    Completed,
    Expired,
    Failed,
    JobComplete,
    JobStarted,
    JobState,
    JobSubmitted,
    Queued,
    Running,
)
from coordinator.domain.matching.units import NANO, UNIT_TYPES, WHOLE, CountedUnit, nanos
from coordinator.domain.miner import MinerState

MAX_STATEMENT_MEMBERS = 32


def verify_statement(verifier: StatementVerifier, command: JobComplete) -> None:
    """Refuse a statement that the key in it did not sign. The decision checks that the key is the miner's."""
    if len(command.statement) > MAX_STATEMENT_MEMBERS:
        raise Refusal(Code.INVALID_STATEMENT, f"the statement has more than {MAX_STATEMENT_MEMBERS} members")
    try:
        verifier.verify(command.statement, str(command.statement.get("signature", {}).get("key_id")))
    except VerificationFailed as failure:
        raise Refusal(Code.INVALID_STATEMENT, failure.detail) from None
    except AttributeError:
        raise Refusal(Code.INVALID_STATEMENT, "signature must be an object") from None


def statement_fault(state: JobState, command: JobComplete, miner: MinerState) -> Refusal | None:
    """The fault of a (validly signed) statement that is by another key, or about other work."""
    expected_key: str | None
    match state:
        case Running():
            expected_key = state.started.miner_key
        case Queued():
            expected_key = None if miner is None else miner.registered.public_key
        case None | AttemptEnded() | Completed() | Failed() | Canceled() | Expired():
            return None  # nothing to prove: the decision answers or refuses without the statement
        case _:
            assert_never(state)
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
        return Refusal(Code.INVALID_STATEMENT, f"the statement's {', '.join(wrong)} must match the attempt")
    return None if state.job.unit is None else _units_fault(state.job.unit, said.get("units", {}))


def verified_partial(
    statement: Mapping[str, Any], job: JobSubmitted, started: JobStarted
) -> Mapping[str, Any]:
    """The statement about this attempt, which was cancelled. Raises Refusal."""
    try:
        verify_partial_statement(statement, started.miner_key)
    except VerificationFailed as failure:
        raise Refusal(Code.INVALID_STATEMENT, failure.detail) from None
    except AttributeError:
        raise Refusal(Code.INVALID_STATEMENT, "signature must be an object") from None
    expected = {
        "job_id": str(job.job_id),
        "attempt": started.attempt,
        "miner_id": started.miner_id,
        "session_id": started.session_id,
        "service": job.service,
        "payload_digest": job.payload_digest,
    }
    wrong = [name for name, value in expected.items() if statement[name] != value]
    if wrong:
        raise Refusal(Code.INVALID_STATEMENT, f"the statement's {', '.join(wrong)} must match the attempt")
    return statement


def _units_fault(unit: CountedUnit, units: Mapping[str, str]) -> Refusal | None:
    """The fault of the numbers in a statement, whose form is checked by then."""
    stated = units.get(unit)
    if stated is None:
        return Refusal(
            Code.INVALID_STATEMENT,
            f"units.{unit}: missing; the job is billed by the number of its {UNIT_TYPES[unit]}, so sign it",
        )
    if unit in WHOLE and nanos(stated) % NANO:
        return Refusal(Code.INVALID_STATEMENT, f"units.{unit}: must be a whole number")
    return None
