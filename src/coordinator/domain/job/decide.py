"""The rules of a job: the events that each command leads to.

Commands are idempotent by content: a repeat of an applied command gives no events and returns the first
answer. A submit is known by its idempotency key, a miner's report by job, attempt and session.
"""

from __future__ import annotations

from typing import Literal, assert_never

from coordinator.domain.account import hold
from coordinator.domain.decision import Decision, StreamEvent, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job.attempt import (
    Outcome,
    already_final,
    check_speaker,
    claim,
    end_attempt,
    holds,
    live_session,
    raise_late,
    too_late,
    was_ended_by,
)
from coordinator.domain.job.commands import (
    JobCancel,
    JobCommand,
    JobComplete,
    JobExpire,
    JobFail,
    JobLose,
    JobRelease,
    JobStart,
    JobSubmit,
    JobSubmitAgain,
)
from coordinator.domain.job.contexts import (
    AttemptContext,
    CompletionContext,
    JobContext,
    SubmitContext,
)
from coordinator.domain.job.events import (
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobStarted,
    JobSubmitted,
    signed_part,
)
from coordinator.domain.job.price import bill, counted_bill
from coordinator.domain.job.state import (
    AttemptEnded,
    Canceled,
    Completed,
    Expired,
    Failed,
    JobState,
    KnownJob,
    Queued,
    Running,
    evolve,
)
from coordinator.domain.job.terms import terms_of
from coordinator.domain.messages import Millis, Principal, Role
from coordinator.domain.miner import MinerState

OWN_ERROR_CODES = frozenset({"LEASE_LOST", "TOO_SLOW", "RELEASED", "CANCELED", "EXPIRED"})
"""Error codes of jobs and attempts that the coordinator alone gives."""
MAX_ERROR_TEXT = 2000
CLAIMLESS_MILLIS = 10_000
"""The most paid time of a result without a claim, which is meant for work that finishes at once."""


# --- the rules ---------------------------------------------------------------------------------------------
def decide(state: JobState, command: JobCommand, context: JobContext) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case JobSubmit():
            assert isinstance(context, SubmitContext)
            return _submit(state, command, context)
        case JobSubmitAgain():
            raise TypeError("its handler makes a JobSubmit of it, from the first job's request")
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


def _submit(state: JobState, command: JobSubmit, context: SubmitContext) -> Decision:
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
    if context.unmatched:
        raise context.unmatched
    job_id, client, now = context.job_id, context.principal.name, context.now
    terms = terms_of(service.spec, command.payload, context.wanted.constraints.max_price)
    held: Decision = []
    amount = None
    if context.accounts:
        # The claim compares the price of a unit with the same limit, and the bill has no more units.
        amount = terms.at_most(command.budget)
        held = hold(context.account, client, amount, now, context.principal)
    submitted = JobSubmitted(
        at=now,
        by=context.by or client,
        job_id=job_id,
        client=client,
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
        list_price=terms.list_price,
        unit=terms.unit,
        max_units=terms.max_units,
        expires_at=now + command.ttl_seconds * 1000,
        callback=context.callback,
        hold=amount,
    )
    return [*held, StreamEvent(job_id, submitted)]


def check_result(
    state: JobState, command: JobComplete, principal: Principal, miner: MinerState
) -> Literal["due", "repeat", "ended"]:
    """Compare a result with the lease, before any costly check of its content. Raises Refusal.

    `due`: the result may complete the attempt; `repeat`: it did; `ended`: this session ended the attempt as
    failed. The decision makes this comparison again.
    """
    known = _known(state)
    check_speaker(command, principal)
    match known:
        case Running():
            if holds(known.started, command):
                return "due"
        case Queued():
            if known.attempt == command.attempt:
                live_session(miner, command)
                return "due"
        case Completed():
            if holds(known.completed, command):
                return "repeat"
        case AttemptEnded() | Failed() | Canceled() | Expired():
            pass
        case _:
            assert_never(known)
    return "ended" if was_ended_by(known, command, "failed") else raise_late(known, command)


def no_service(service: str) -> Refusal:
    """The refusal of a job for a service that is unknown or retired."""
    return Refusal(Code.SERVICE_NOT_FOUND, f"no service {service}; the registry lists all services")


def _start(state: KnownJob, command: JobStart, context: AttemptContext) -> list[JobEvent]:
    check_speaker(command, context.principal)
    match state:
        case Queued():
            if state.attempt == command.attempt:
                return [claim(state, command, context)]
        case Running():
            if holds(state.started, command):
                return []
            if state.attempt == command.attempt:
                raise Refusal(Code.CONFLICT_STATE, "another miner holds this attempt; drop the offer")
        case Completed():
            if holds(state.completed, command):
                return []
        case AttemptEnded() | Failed() | Canceled() | Expired():
            pass
        case _:
            assert_never(state)
    raise too_late(state, command.attempt)


def _complete(state: KnownJob, command: JobComplete, context: CompletionContext) -> list[JobEvent]:
    check_speaker(command, context.principal)
    # 1. Find the lease that this result belongs to, or claim and complete in one decision.
    events: list[JobEvent] = []
    started: JobStarted | None = None
    match state:
        case Running():
            if holds(state.started, command):
                started, since = state.started, state.started.at
        case Queued():
            if state.attempt == command.attempt:
                started = claim(state, command, context)
                since = max(state.queued_at, context.now - CLAIMLESS_MILLIS)
                events.append(started)
        case Completed():
            if holds(state.completed, command):
                return []
        case AttemptEnded() | Failed() | Canceled() | Expired():
            pass
        case _:
            assert_never(state)
    if started is None:
        # A repeat of a result that broke the schema gets the first answer, too.
        return [] if context.breach and was_ended_by(state, command, "failed") else raise_late(state, command)
    # 2. A result that breaks the output schema costs the attempt.
    if context.breach:
        running = evolve(state, started) if events else state
        assert isinstance(running, Running)
        code, message, metrics = context.breach.code.value, context.breach.detail, command.metrics
        ended_events = end_attempt(
            running, context, "failed", code, message[:MAX_ERROR_TEXT], retryable=True, metrics=metrics
        )
        return [*events, *ended_events]
    # 3. The signed statement must prove this result.
    if context.fault:
        raise context.fault
    # 4. The paid time is the time that the miner states, clipped to the time that we saw and to the limit.
    begun = _clip(command.statement["started_at_ms"], since, context.now)
    ended = _clip(command.statement["completed_at_ms"], begun, context.now)
    job, price = state.job, started.unit_price
    if job.unit is None:
        owed = bill(ended - begun, price, job.max_units)
    else:
        # Counted units: the number that the miner signs, cut to the number that its result shows.
        stated = command.statement["units"][job.unit]
        owed = counted_bill(job.unit, stated, context.shown, price, job.max_units)
    events.append(
        JobCompleted(
            at=context.now,
            by=context.principal.name,
            job_id=state.job.job_id,
            client=state.job.client,
            attempt=command.attempt,
            miner_id=command.miner_id,
            session_id=command.session_id,
            result_digest=command.statement["result_digest"],
            result_bytes=context.result_bytes,
            metrics=command.metrics,
            units=owed.units,
            price=owed.price,
            measured_units=owed.measured_units,
            shown_units=owed.shown_units,
            started_at=begun,
            completed_at=ended,
            statement=signed_part(command.statement),
        )
    )
    return events


def _fail(state: KnownJob, command: JobFail, context: AttemptContext) -> list[JobEvent]:
    check_speaker(command, context.principal)
    if command.error_code in OWN_ERROR_CODES:
        raise Refusal(
            Code.INVALID_PAYLOAD, f"error_code: {command.error_code} is the coordinator's; send another one"
        )
    events: list[JobEvent] = []
    if isinstance(state, Queued) and state.attempt == command.attempt:
        # Work that fails at once may leave out the claim, as a result may.
        started = claim(state, command, context)
        events.append(started)
        running = evolve(state, started)
        assert isinstance(running, Running)
    elif isinstance(state, Running) and holds(state.started, command):
        running = state
    else:
        return _ended_before(state, command, "failed")
    code, message = command.error_code, command.error_message
    ended = end_attempt(
        running, context, "failed", code, message, retryable=command.retryable, metrics=command.metrics
    )
    return [*events, *ended]


def _release(state: KnownJob, command: JobRelease, context: JobContext) -> list[JobEvent]:
    check_speaker(command, context.principal)
    if not isinstance(state, Running) or not holds(state.started, command):
        return _ended_before(state, command, "released")
    message = "handed back by the miner"
    return end_attempt(state, context, "released", "RELEASED", message, retryable=True, metrics={})


def _ended_before(state: KnownJob, command: JobFail | JobRelease, outcome: Outcome) -> list[JobEvent]:
    """No events, for a repeat of a report that ended the attempt. Raises Refusal for any other."""
    return [] if was_ended_by(state, command, outcome) else raise_late(state, command)


def _lose(state: KnownJob, command: JobLose, context: JobContext) -> list[JobEvent]:
    if isinstance(state, Running) and state.attempt == command.attempt:
        return end_attempt(
            state, context, "lost", command.error_code, command.reason, retryable=True, metrics={}
        )
    if any(e.attempt == command.attempt and e.outcome == "lost" for e in state.ended):
        return []
    raise too_late(state, command.attempt)


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
            raise already_final(state)
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
            raise already_final(state)
        case _:
            assert_never(state)


def _clip(moment: Millis, earliest: Millis, latest: Millis) -> Millis:
    return max(earliest, min(moment, latest))


def _known(state: JobState) -> KnownJob:
    if state is None:
        raise _not_found()
    return state


def _not_found() -> Refusal:
    return Refusal(Code.JOB_NOT_FOUND, "no such job")
