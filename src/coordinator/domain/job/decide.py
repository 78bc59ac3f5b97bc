"""The rules of a job: the events that each command leads to.

Commands are idempotent by content: a repeat of an applied command gives no events and returns the first
answer. A submit is known by its idempotency key, a miner's report by job, attempt and session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP
from decimal import Decimal as Exact
from typing import Any, Literal, NamedTuple, assert_never
from uuid import UUID

from coordinator.domain.decision import Context, Decision, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job.commands import (
    AttemptCommand,
    JobCancel,
    JobCommand,
    JobComplete,
    JobExpire,
    JobFail,
    JobLose,
    JobRelease,
    JobStart,
    JobSubmit,
)
from coordinator.domain.job.events import (
    FINAL_STATES,
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
)
from coordinator.domain.job.state import (
    STATE_NAMES,
    AttemptEnded,
    Canceled,
    Completed,
    EndedAttempt,
    Expired,
    Failed,
    JobState,
    Queued,
    Running,
    evolve,
)
from coordinator.domain.matching import Wanted, unmet
from coordinator.domain.messages import Millis, Principal, Role
from coordinator.domain.miner import Draining, MinerState, Online
from coordinator.domain.service import ServiceState

Outcome = Literal["failed", "lost", "released"]
KnownJob = Queued | Running | AttemptEnded | Completed | Failed | Canceled | Expired

PRICE_STEP = Exact("0.000001")
CLAIMLESS_MILLIS = 10_000
"""The most paid time of a result without a claim, which is meant for work that finishes at once."""


# --- contexts: tuples, because every command makes one -----------------------------------------------------
class SubmitContext(NamedTuple):
    """The facts for a submit."""

    now: Millis
    principal: Principal
    job_id: UUID
    """The id of the new job, and so of its stream."""
    service: ServiceState
    """The registry entry. May be stale: the job is then accepted under the entry of a moment ago, whose
    version it records."""
    wanted: Wanted
    """The job's class; computed from the command, never stale."""
    payload_digest: str
    """SHA-256 over salt and payload; computed from the command, never stale."""
    fingerprint: str
    """Keyed digest of the request, which tells a repeat from another request with the same idempotency key;
    computed from the command, never stale."""
    fault: Refusal | None = None
    """The fault of the payload, if any: it breaks the service's schema, or refers to the wrong blobs."""
    payload_bytes: int = 0
    """The length of the payload's canonical JSON; computed from the command, never stale."""


class AttemptContext(NamedTuple):
    """The facts for a claim, a failure or a release."""

    now: Millis
    principal: Principal
    miner: MinerState
    """The state of the miner. May be stale: a session that was lost a moment ago gets a lease that no
    heartbeat extends, so that the timers end it. Nothing is paid twice: the attempt is the fence."""


class CompletionContext(NamedTuple):
    """The facts for a result."""

    now: Millis
    principal: Principal
    miner: MinerState
    """As in `AttemptContext`."""
    seal: Callable[[WorkDone], dict[str, Any]]
    """Signs a receipt. Deterministic: the same work gives the same bytes."""
    fault: Refusal | None = None
    """The fault of the statement or of the blobs that the result refers to, if any."""
    result_bytes: int = 0
    """The length of the result's canonical JSON; computed from the command, never stale."""


JobContext = SubmitContext | AttemptContext | CompletionContext | Context


class WorkDone(NamedTuple):
    """The content of a receipt, before it is signed."""

    job_id: str
    attempt: int
    service: str
    client: str
    miner_id: str
    payload_digest: str
    result_digest: str
    units: str
    unit_price: str
    price: str
    started_at: Millis
    completed_at: Millis
    statement: Mapping[str, Any]


# --- the rules ---------------------------------------------------------------------------------------------
def decide(state: JobState, command: JobCommand, context: JobContext) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case JobSubmit():
            assert isinstance(context, SubmitContext)
            return on(context.job_id, _submit(state, command, context))
        case JobCancel():
            events = _cancel(_known(state), command, context)
        case JobStart():
            assert isinstance(context, AttemptContext)
            events = _start(_known(state), command, context)
        case JobComplete():
            assert isinstance(context, CompletionContext)
            events = _complete(_known(state), command, context)
        case JobFail():
            assert isinstance(context, AttemptContext)
            events = _fail(_known(state), command, context)
        case JobRelease():
            events = _release(_known(state), command, context)
        case JobLose():
            events = _lose(_known(state), command, context)
        case JobExpire():
            events = _expire(_known(state), context)
        case _:
            assert_never(command)
    return on(command.job_id, events)


def _submit(state: JobState, command: JobSubmit, context: SubmitContext) -> list[JobEvent]:
    if state is not None:
        # The stream's id follows from client and idempotency key: a repeat finds its own first version.
        if state.job.fingerprint != context.fingerprint:
            raise Refusal(
                Code.IDEMPOTENCY_MISMATCH,
                "this idempotency key was used for a different request; use another key for another job",
            )
        return []
    service = context.service
    if service is None or service.retired:
        raise Refusal(
            Code.SERVICE_NOT_FOUND, f"no service {command.service}; the registry lists all services"
        )
    if context.fault:
        raise context.fault
    return [
        JobSubmitted(
            at=context.now,
            by=context.principal.name,
            job_id=context.job_id,
            client=context.principal.name,
            service=command.service,
            service_version=service.version,
            constraints=context.wanted.constraints,
            job_class=context.wanted.job_class,
            priority=command.priority,
            max_attempts=command.max_attempts,
            payload_digest=context.payload_digest,
            fingerprint=context.fingerprint,
            payload_bytes=context.payload_bytes,
            timeout_seconds=service.spec.timeout_seconds,
            list_price=service.spec.list_price(),
            expires_at=context.now + command.ttl_seconds * 1000,
        )
    ]


def _start(state: KnownJob, command: JobStart, context: AttemptContext) -> list[JobEvent]:
    _check_speaker(command, context)
    match state:
        case Queued():
            if state.attempt == command.attempt:
                return [_claim(state, command, context)]
        case Running():
            if _holds(state.started, command):
                return []
            if state.attempt == command.attempt:
                raise Refusal(Code.CONFLICT_STATE, "another miner holds this attempt; drop the offer")
        case Completed():
            if _holds(state.completed, command):
                return []
        case AttemptEnded() | Failed() | Canceled() | Expired():
            pass
        case _:
            assert_never(state)
    raise _too_late(state, command.attempt)


def _complete(state: KnownJob, command: JobComplete, context: CompletionContext) -> list[JobEvent]:
    _check_speaker(command, context)
    # 1. Find the lease that this result belongs to, or claim and complete in one decision.
    events: list[JobEvent] = []
    started: JobStarted | None = None
    match state:
        case Running():
            if _holds(state.started, command):
                started, since = state.started, state.started.at
        case Queued():
            if state.attempt == command.attempt:
                started = _claim(state, command, context)
                since = max(state.queued_at, context.now - CLAIMLESS_MILLIS)
                events.append(started)
        case Completed():
            if _holds(state.completed, command):
                return []
        case AttemptEnded() | Failed() | Canceled() | Expired():
            pass
        case _:
            assert_never(state)
    if started is None:
        raise _too_late(state, command.attempt)
    # 2. The signed statement must prove this result.
    if context.fault:
        raise context.fault
    # 3. The paid time is the time that the miner states, clipped to the time that we saw.
    begun = _clip(command.statement["started_at_ms"], since, context.now)
    ended = _clip(command.statement["completed_at_ms"], begun, context.now)
    millis = ended - begun
    price = (millis * Exact(started.unit_price) / 1000).quantize(PRICE_STEP, ROUND_HALF_UP)
    result_digest = command.statement["result_digest"]
    receipt = context.seal(
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
            at=context.now,
            by=context.principal.name,
            job_id=state.job.job_id,
            client=state.job.client,
            attempt=command.attempt,
            miner_id=command.miner_id,
            session_id=command.session_id,
            result_digest=result_digest,
            result_bytes=context.result_bytes,
            metrics=command.metrics,
            receipt=receipt,
        )
    )
    return events


def _fail(state: KnownJob, command: JobFail, context: AttemptContext) -> list[JobEvent]:
    _check_speaker(command, context)
    events: list[JobEvent] = []
    if isinstance(state, Queued) and state.attempt == command.attempt:
        # Work that fails at once may leave out the claim, as a result may.
        started = _claim(state, command, context)
        events.append(started)
        running = evolve(state, started)
        assert isinstance(running, Running)
    elif isinstance(state, Running) and _holds(state.started, command):
        running = state
    else:
        return _ended_before(state, command, "failed")
    code, message = command.error_code, command.error_message
    ended = _end_attempt(
        running, context, "failed", code, message, retryable=command.retryable, metrics=command.metrics
    )
    return [*events, *ended]


def _release(state: KnownJob, command: JobRelease, context: JobContext) -> list[JobEvent]:
    _check_speaker(command, context)
    if not isinstance(state, Running) or not _holds(state.started, command):
        return _ended_before(state, command, "released")
    message = "handed back by the miner"
    return _end_attempt(state, context, "released", "RELEASED", message, retryable=True, metrics={})


def _ended_before(state: KnownJob, command: JobFail | JobRelease, outcome: Outcome) -> list[JobEvent]:
    """No events, for a repeat of a report that ended the attempt. Raises Refusal for any other."""
    if EndedAttempt(command.attempt, command.miner_id, command.session_id, outcome) in state.ended:
        return []
    raise _too_late(state, command.attempt)


def _lose(state: KnownJob, command: JobLose, context: JobContext) -> list[JobEvent]:
    if isinstance(state, Running) and state.attempt == command.attempt:
        return _end_attempt(state, context, "lost", "LEASE_LOST", command.reason, retryable=True, metrics={})
    if any(e.attempt == command.attempt and e.outcome == "lost" for e in state.ended):
        return []
    raise _too_late(state, command.attempt)


def _end_attempt(
    state: Running,
    context: JobContext,
    outcome: Outcome,
    error_code: str,
    error_message: str,
    *,
    retryable: bool,
    metrics: dict[str, int | str],
) -> list[JobEvent]:
    job, held = state.job, state.started
    common: dict[str, Any] = {
        "at": context.now,
        "by": context.principal.name,
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


def _cancel(state: KnownJob, command: JobCancel, context: JobContext) -> list[JobEvent]:
    if context.principal.role is Role.CLIENT and context.principal.name != state.job.client:
        raise _not_found()
    match state:
        case Queued() | Running():
            return [
                JobCanceled(
                    at=context.now,
                    by=context.principal.name,
                    job_id=state.job.job_id,
                    client=state.job.client,
                    attempt=state.attempt,
                    reason=command.reason,
                )
            ]
        case Canceled():
            return []
        case AttemptEnded() | Completed() | Failed() | Expired():
            raise _final(state)
        case _:
            assert_never(state)


def _expire(state: KnownJob, context: JobContext) -> list[JobEvent]:
    match state:
        case Queued() | Running():
            if context.now < state.job.expires_at:
                raise Refusal(Code.CONFLICT_STATE, "the job's time to live is not over")
            return [
                JobExpired(
                    at=context.now,
                    by=context.principal.name,
                    job_id=state.job.job_id,
                    client=state.job.client,
                    attempt=state.attempt,
                )
            ]
        case Expired():
            return []
        case AttemptEnded() | Completed() | Failed() | Canceled():
            raise _final(state)
        case _:
            assert_never(state)


def _claim(state: Queued, command: AttemptCommand, context: AttemptContext | CompletionContext) -> JobStarted:
    if context.now >= state.job.expires_at:
        raise Refusal(Code.CONFLICT_STATE, "the job's time to live is over; drop the offer")
    miner = context.miner
    if isinstance(miner, Draining) and miner.session_id == command.session_id:
        raise Refusal(
            Code.MINER_DRAINING, "this miner is draining: it finishes its jobs and gets no new ones"
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
        at=context.now,
        by=context.principal.name,
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


def _check_speaker(command: AttemptCommand, context: JobContext) -> None:
    if not context.principal.owns_miner(command.miner_id):
        raise Refusal(Code.FORBIDDEN, f"{context.principal.name} can't speak for miner {command.miner_id}")


def _clip(moment: Millis, earliest: Millis, latest: Millis) -> Millis:
    return max(earliest, min(moment, latest))


def _known(state: JobState) -> KnownJob:
    if state is None:
        raise _not_found()
    return state


def _not_found() -> Refusal:
    return Refusal(Code.JOB_NOT_FOUND, "no such job")


def _final(state: KnownJob) -> Refusal:
    return Refusal(Code.CONFLICT_STATE, f"the job is {STATE_NAMES[type(state)]}, which is final")


def _too_late(state: KnownJob, attempt: int) -> Refusal:
    if STATE_NAMES[type(state)] in FINAL_STATES:
        return _final(state)
    detail = f"attempt {attempt} is over or belongs to another session; drop the work"
    return Refusal(Code.STALE_ATTEMPT, detail)
