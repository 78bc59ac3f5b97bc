"""The rules of a job: the events that each command leads to.

Commands are idempotent by content: a repeat of an applied command gives no events and returns the first
answer. A submit is known by its idempotency key, a miner's report by job, attempt and session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn, assert_never
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
from coordinator.domain.job.price import bill, max_units, unit_price
from coordinator.domain.job.state import (
    STATE_NAMES,
    AttemptEnded,
    Canceled,
    Completed,
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

OWN_ERROR_CODES = frozenset({"LEASE_LOST", "TOO_SLOW", "RELEASED", "CANCELED", "EXPIRED"})
"""Error codes of jobs and attempts that the coordinator alone gives."""
MAX_ERROR_TEXT = 2000
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


class AttemptContext(NamedTuple):
    """The facts for a claim, a failure or a release."""

    now: Millis
    principal: Principal
    miner: MinerState
    """The state of the miner. May be stale: a session that was lost a moment ago gets a lease that no
    heartbeat extends, so that the timers end it. Nothing is paid twice: the attempt is the fence."""
    offered: bool
    """Whether the command has the token of the attempt's offer to the miner's profile; computed from the
    command and the miner's state."""


class CompletionContext(NamedTuple):
    """The facts for a result."""

    now: Millis
    principal: Principal
    miner: MinerState
    """As in `AttemptContext`."""
    offered: bool
    """As in `AttemptContext`."""
    seal: Callable[[WorkDone], dict[str, Any]]
    """Signs a receipt. Deterministic: the same work gives the same bytes."""
    fault: Refusal | None = None
    """The fault of the statement or of the blobs that the result refers to, if any."""
    breach: Refusal | None = None
    """The breach of the output schema, if any; it ends the attempt. Computed from the result and from the
    version of the service that the job was submitted under, never stale."""


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
    measured_units: str | None
    """The units of the whole attempt, if the job's limit cut them."""
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
        raise no_service(command.service)
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
            timeout_seconds=service.spec.timeout_seconds,
            list_price=service.spec.list_price(),
            max_units=max_units(service.spec, command.payload),
            expires_at=context.now + command.ttl_seconds * 1000,
        )
    ]


def check_result(
    state: JobState, command: JobComplete, principal: Principal, miner: MinerState
) -> Literal["due", "repeat", "ended"]:
    """Compare a result with the lease, before any costly check of its content. Raises Refusal.

    `due`: the result may complete the attempt; `repeat`: it did; `ended`: this session ended the attempt as
    failed. The decision makes this comparison again.
    """
    known = _known(state)
    _check_speaker(command, principal)
    match known:
        case Running():
            if _holds(known.started, command):
                return "due"
        case Queued():
            if known.attempt == command.attempt:
                _live(miner, command)
                return "due"
        case Completed():
            if _holds(known.completed, command):
                return "repeat"
        case AttemptEnded() | Failed() | Canceled() | Expired():
            pass
        case _:
            assert_never(known)
    return "ended" if _ended_by(known, command, "failed") else _raise_late(known, command)


def no_service(service: str) -> Refusal:
    """The refusal of a job for a service that is unknown or retired."""
    return Refusal(Code.SERVICE_NOT_FOUND, f"no service {service}; the registry lists all services")


def _start(state: KnownJob, command: JobStart, context: AttemptContext) -> list[JobEvent]:
    _check_speaker(command, context.principal)
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
    _check_speaker(command, context.principal)
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
        # A repeat of a result that broke the schema gets the first answer, too.
        return [] if context.breach and _ended_by(state, command, "failed") else _raise_late(state, command)
    # 2. A result that breaks the output schema costs the attempt.
    if context.breach:
        running = evolve(state, started) if events else state
        assert isinstance(running, Running)
        code, message, metrics = context.breach.code.value, context.breach.detail, command.metrics
        ended_events = _end_attempt(
            running, context, "failed", code, message[:MAX_ERROR_TEXT], retryable=True, metrics=metrics
        )
        return [*events, *ended_events]
    # 3. The signed statement must prove this result.
    if context.fault:
        raise context.fault
    # 4. The paid time is the time that the miner states, clipped to the time that we saw and to the limit.
    begun = _clip(command.statement["started_at_ms"], since, context.now)
    ended = _clip(command.statement["completed_at_ms"], begun, context.now)
    owed = bill(ended - begun, started.unit_price, state.job.max_units)
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
            units=owed.units,
            unit_price=started.unit_price,
            price=owed.price,
            measured_units=owed.measured_units,
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
            metrics=command.metrics,
            receipt=receipt,
        )
    )
    return events


def _fail(state: KnownJob, command: JobFail, context: AttemptContext) -> list[JobEvent]:
    _check_speaker(command, context.principal)
    if command.error_code in OWN_ERROR_CODES:
        raise Refusal(
            Code.INVALID_PAYLOAD, f"error_code: {command.error_code} is the coordinator's; send another one"
        )
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
    _check_speaker(command, context.principal)
    if not isinstance(state, Running) or not _holds(state.started, command):
        return _ended_before(state, command, "released")
    message = "handed back by the miner"
    return _end_attempt(state, context, "released", "RELEASED", message, retryable=True, metrics={})


def _ended_before(state: KnownJob, command: JobFail | JobRelease, outcome: Outcome) -> list[JobEvent]:
    """No events, for a repeat of a report that ended the attempt. Raises Refusal for any other."""
    return [] if _ended_by(state, command, outcome) else _raise_late(state, command)


def _ended_by(state: KnownJob, command: AttemptCommand, outcome: Outcome) -> bool:
    report = (command.attempt, command.miner_id, command.session_id, outcome)
    return any((e.attempt, e.miner_id, e.session_id, e.outcome) == report for e in state.ended)


def _raise_late(state: KnownJob, command: AttemptCommand) -> NoReturn:
    raise _too_late(state, command.attempt)


def _lose(state: KnownJob, command: JobLose, context: JobContext) -> list[JobEvent]:
    if isinstance(state, Running) and state.attempt == command.attempt:
        return _end_attempt(
            state, context, "lost", command.error_code, command.reason, retryable=True, metrics={}
        )
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
        retryable=retryable,
        metrics=metrics,
    )
    ended_state = evolve(state, ended)
    assert isinstance(ended_state, AttemptEnded)
    exhausted = ended_state.charged >= job.max_attempts
    # One miner's word costs one attempt. The input is at fault once a second miner says so, too.
    confirmed = not retryable and any(e.final and e.miner_id != held.miner_id for e in state.ended)
    if exhausted or confirmed:
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
    miner = _live(context.miner, command)
    capabilities = miner.registered.capabilities
    reasons = unmet(state.job.service, state.job.constraints, capabilities, state.job.list_price)
    if reasons:
        raise Refusal(Code.NOT_CAPABLE, "this miner " + "; ".join(reasons))
    if not context.offered:
        raise Refusal(
            Code.NOT_OFFERED,
            "this attempt was not offered to this miner's profile; claim with the token of the offer",
        )
    return JobStarted(
        at=context.now,
        by=context.principal.name,
        job_id=state.job.job_id,
        client=state.job.client,
        attempt=command.attempt,
        miner_id=command.miner_id,
        session_id=command.session_id,
        miner_key=miner.registered.public_key,
        unit_price=unit_price(capabilities.price, state.job.list_price),
    )


def _live(miner: MinerState, command: AttemptCommand) -> Online:
    if isinstance(miner, Draining) and miner.session_id == command.session_id:
        raise Refusal(
            Code.MINER_DRAINING, "this miner is draining: it finishes its jobs and gets no new ones"
        )
    if not isinstance(miner, Online) or miner.session_id != command.session_id:
        raise Refusal(Code.SESSION_NOT_LIVE, "this session is not live; register again with a new session id")
    return miner


def _holds(lease: JobStarted | JobCompleted, command: AttemptCommand) -> bool:
    return (
        lease.attempt == command.attempt
        and lease.session_id == command.session_id
        and lease.miner_id == command.miner_id
    )


def _check_speaker(command: AttemptCommand, principal: Principal) -> None:
    if not principal.owns_miner(command.miner_id):
        raise Refusal(Code.FORBIDDEN, f"{principal.name} can't speak for miner {command.miner_id}")


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
