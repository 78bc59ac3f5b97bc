"""What a command does to a job: the rules, as one pure function per command.

Commands are idempotent by content: a repeat of an applied command gives no events, and its sender the first
answer (a submit by its idempotency key; a start, complete, fail or release by job, attempt and session).
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP
from decimal import Decimal as Exact
from typing import Any, Literal

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.facts import Facts, WorkDone
from coordinator.domain.job import (
    FINAL_STATES,
    STATE_NAMES,
    AttemptCommand,
    AttemptEnded,
    Canceled,
    Completed,
    EndedAttempt,
    Expired,
    JobAttemptEnded,
    JobCancel,
    JobCanceled,
    JobComplete,
    JobCompleted,
    JobExpire,
    JobExpired,
    JobFail,
    JobFailed,
    JobLose,
    JobRelease,
    JobRequeued,
    JobStart,
    JobStarted,
    JobState,
    JobSubmit,
    JobSubmitted,
    Queued,
    Running,
    evolve,
)
from coordinator.domain.matching import unmet
from coordinator.domain.messages import Command, Event, Millis, Role
from coordinator.domain.miner import Draining, Online

Outcome = Literal["failed", "lost", "released"]

PRICE_STEP = Exact("0.000001")
CLAIMLESS_MILLIS = 10_000
"""A result without a claim is for work that finishes at once: no more than this is paid for it."""


def decide(state: JobState, command: Command, facts: Facts) -> list[Event]:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    if isinstance(command, JobSubmit):
        return _submit(state, command, facts)
    if type(state) not in STATE_NAMES:
        # No such job: or the id names another kind of stream, which looks just the same from outside.
        raise _not_found()
    match command:
        case JobCancel():
            return _cancel(state, command, facts)
        case JobStart():
            _check_speaker(command, facts)
            return _start(state, command, facts)
        case JobComplete():
            _check_speaker(command, facts)
            return _complete(state, command, facts)
        case JobFail() | JobRelease():
            _check_speaker(command, facts)
            return _end(state, command, facts)
        case JobLose():
            return _lose(state, command, facts)
        case JobExpire():
            return _expire(state, facts)
    raise Refusal(Code.UNKNOWN_COMMAND, f"a job does not know {command.topic}")


def _submit(state: JobState, command: JobSubmit, facts: Facts) -> list[Event]:
    if state is not None:
        # The stream's id is made of client and key: a repeat meets its own first version.
        if state.job.fingerprint != facts.fingerprint:
            raise Refusal(
                Code.IDEMPOTENCY_MISMATCH,
                "this idempotency key was used for a different request; use another key for another job",
            )
        return []
    service = facts.service
    if service is None or service.retired:
        raise Refusal(
            Code.SERVICE_NOT_FOUND, f"no service {command.service}; see the registry for what there is"
        )
    if facts.fault:
        raise facts.fault
    assert facts.wanted is not None
    return [
        JobSubmitted(
            at=facts.now,
            by=facts.principal.name,
            job_id=facts.stream,
            client=facts.principal.name,
            service=command.service,
            service_version=service.version,
            constraints=facts.wanted.constraints,
            job_class=facts.wanted.job_class,
            priority=command.priority,
            max_attempts=command.max_attempts,
            payload_digest=facts.payload_digest,
            fingerprint=facts.fingerprint,
            timeout_seconds=service.spec.timeout_seconds,
            list_price=service.spec.list_price(),
            expires_at=facts.now + command.ttl_seconds * 1000,
        )
    ]


def _start(state: JobState, command: JobStart, facts: Facts) -> list[Event]:
    match state:
        case Queued() if state.attempt == command.attempt:
            return [_claim(state, command, facts)]
        case Running() if _holds(state.started, command):
            return []
        case Completed() if _holds(state.completed, command):
            return []
        case Running() if state.attempt == command.attempt:
            raise Refusal(Code.CONFLICT_STATE, "another miner holds this attempt; drop the offer")
    raise _too_late(state, command.attempt)


def _complete(state: JobState, command: JobComplete, facts: Facts) -> list[Event]:
    # 1. Find the lease that this result belongs to, or claim and complete in one decision.
    events: list[Event] = []
    match state:
        case Running() if _holds(state.started, command):
            started, since = state.started, state.started.at
        case Queued() if state.attempt == command.attempt:
            started = _claim(state, command, facts)
            since = max(state.queued_at, facts.now - CLAIMLESS_MILLIS)
            events.append(started)
        case Completed() if _holds(state.completed, command):
            return []
        case _:
            raise _too_late(state, command.attempt)
    # 2. The signed statement must prove this result.
    if facts.fault:
        raise facts.fault
    # 3. What is paid for is the time that the miner states, within the time that we saw.
    begun = _clip(command.statement["started_at_ms"], since, facts.now)
    ended = _clip(command.statement["completed_at_ms"], begun, facts.now)
    millis = ended - begun
    price = (millis * Exact(started.unit_price) / 1000).quantize(PRICE_STEP, ROUND_HALF_UP)
    assert facts.seal is not None
    result_digest = command.statement["result_digest"]
    receipt = facts.seal(
        WorkDone(
            job_id=str(state.job.job_id),
            attempt=command.attempt,
            service=state.job.service,
            client=state.job.client,
            miner_id=command.miner_id,
            payload_digest=state.job.payload_digest,
            result_digest=result_digest,
            units=f"{millis // 1000}.{millis % 1000:03d}",
            unit_price=started.unit_price,
            price=format(price, "f"),
            started_at=begun,
            completed_at=ended,
            statement=command.statement,
        )
    )
    events.append(
        JobCompleted(
            at=facts.now,
            by=facts.principal.name,
            job_id=state.job.job_id,
            client=state.job.client,
            attempt=command.attempt,
            miner_id=command.miner_id,
            session_id=command.session_id,
            result_digest=result_digest,
            metrics=command.metrics,
            receipt=receipt,
        )
    )
    return events


def _end(state: JobState, command: JobFail | JobRelease, facts: Facts) -> list[Event]:
    outcome: Outcome = "failed" if isinstance(command, JobFail) else "released"
    if isinstance(command, JobFail):
        code, message, retryable, metrics = (
            command.error_code,
            command.error_message,
            command.retryable,
            command.metrics,
        )
    else:
        code, message, retryable, metrics = "RELEASED", "handed back by the miner", True, {}
    if isinstance(state, Queued) and state.attempt == command.attempt and isinstance(command, JobFail):
        # Work that fails at once may leave out the claim, as a result may.
        started = _claim(state, command, facts)
        running = evolve(state, started)
        assert isinstance(running, Running)
        ended = _end_attempt(running, facts, outcome, code, message, retryable=retryable, metrics=metrics)
        return [started, *ended]
    if isinstance(state, Running) and _holds(state.started, command):
        return _end_attempt(state, facts, outcome, code, message, retryable=retryable, metrics=metrics)
    assert state is not None
    if EndedAttempt(command.attempt, command.miner_id, command.session_id, outcome) in state.ended:
        return []
    raise _too_late(state, command.attempt)


def _lose(state: JobState, command: JobLose, facts: Facts) -> list[Event]:
    if isinstance(state, Running) and state.attempt == command.attempt:
        return _end_attempt(state, facts, "lost", "LEASE_LOST", command.reason, retryable=True, metrics={})
    assert state is not None
    if any(e.attempt == command.attempt and e.outcome == "lost" for e in state.ended):
        return []
    raise _too_late(state, command.attempt)


def _end_attempt(
    state: Running,
    facts: Facts,
    outcome: Outcome,
    error_code: str,
    error_message: str,
    *,
    retryable: bool,
    metrics: dict[str, int | str],
) -> list[Event]:
    job, held = state.job, state.started
    common: dict[str, Any] = {
        "at": facts.now,
        "by": facts.principal.name,
        "job_id": job.job_id,
        "client": job.client,
    }
    ended = JobAttemptEnded(
        **common,
        attempt=held.attempt,
        miner_id=held.miner_id,
        session_id=held.session_id,
        outcome=outcome,
        error_code=error_code,
        error_message=error_message,
        metrics=metrics,
    )
    ended_state = evolve(state, ended)
    assert isinstance(ended_state, AttemptEnded)
    exhausted = ended_state.charged >= job.max_attempts
    if exhausted or not retryable:
        failed = JobFailed(**common, attempt=held.attempt, error_code=error_code, error_message=error_message)
        return [ended, failed]
    return [ended, JobRequeued(**common, attempt=held.attempt + 1)]


def _cancel(state: JobState, command: JobCancel, facts: Facts) -> list[Event]:
    assert state is not None
    if facts.principal.role is Role.CLIENT and facts.principal.name != state.job.client:
        raise _not_found()
    match state:
        case Queued() | Running():
            return [
                JobCanceled(
                    at=facts.now,
                    by=facts.principal.name,
                    job_id=state.job.job_id,
                    client=state.job.client,
                    attempt=state.attempt,
                    reason=command.reason,
                )
            ]
        case Canceled():
            return []
    raise _final(state)


def _expire(state: JobState, facts: Facts) -> list[Event]:
    match state:
        case Queued() | Running():
            if facts.now < state.job.expires_at:
                raise Refusal(Code.CONFLICT_STATE, "the job's time to live is not over")
            return [
                JobExpired(
                    at=facts.now,
                    by=facts.principal.name,
                    job_id=state.job.job_id,
                    client=state.job.client,
                    attempt=state.attempt,
                )
            ]
        case Expired():
            return []
    raise _final(state)


def _claim(state: Queued, command: AttemptCommand, facts: Facts) -> JobStarted:
    if facts.now >= state.job.expires_at:
        raise Refusal(Code.CONFLICT_STATE, "the job's time to live is over; drop the offer")
    miner = facts.miner
    if isinstance(miner, Draining) and miner.session_id == command.session_id:
        raise Refusal(
            Code.MINER_DRAINING, "this miner drains: it finishes what it holds and gets nothing new"
        )
    if not isinstance(miner, Online) or miner.session_id != command.session_id:
        raise Refusal(Code.SESSION_NOT_LIVE, "this session is not live; register again with a new session id")
    capabilities = miner.registered.capabilities
    reasons = unmet(state.job.service, state.job.constraints, capabilities)
    if reasons:
        raise Refusal(Code.NOT_CAPABLE, "this miner " + "; ".join(reasons))
    price = capabilities.price
    if price is None:
        limit = state.job.constraints.max_price
        price = min((p for p in (state.job.list_price, limit) if p is not None), key=Exact)
    return JobStarted(
        at=facts.now,
        by=facts.principal.name,
        job_id=state.job.job_id,
        client=state.job.client,
        attempt=command.attempt,
        miner_id=command.miner_id,
        session_id=command.session_id,
        miner_key=miner.registered.public_key,
        unit_price=price,
    )


def _holds(lease: JobStarted | JobCompleted, command: AttemptCommand) -> bool:
    return (
        lease.attempt == command.attempt
        and lease.session_id == command.session_id
        and lease.miner_id == command.miner_id
    )


def _check_speaker(command: AttemptCommand, facts: Facts) -> None:
    if not facts.principal.owns_miner(command.miner_id):
        raise Refusal(Code.FORBIDDEN, f"{facts.principal.name} can't speak for miner {command.miner_id}")


def _clip(moment: Millis, earliest: Millis, latest: Millis) -> Millis:
    return max(earliest, min(moment, latest))


def _not_found() -> Refusal:
    return Refusal(Code.JOB_NOT_FOUND, "no such job")


def _final(state: JobState) -> Refusal:
    return Refusal(Code.CONFLICT_STATE, f"the job is {STATE_NAMES[type(state)]}, which is final")


def _too_late(state: JobState, attempt: int) -> Refusal:
    if STATE_NAMES[type(state)] in FINAL_STATES:
        return _final(state)
    return Refusal(Code.STALE_ATTEMPT, f"attempt {attempt} is not this session's, or is over; drop the work")
