"""The attempt at a job: its claim, the lease that a report must hold, and its end without a result."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job.commands import AttemptCommand
from coordinator.domain.job.contexts import AttemptContext, CompletionContext, JobContext
from coordinator.domain.job.events import (
    FINAL_STATES,
    JobAttemptEnded,
    JobCompleted,
    JobEvent,
    JobFailed,
    JobRequeued,
    JobStarted,
)
from coordinator.domain.job.price import unit_price
from coordinator.domain.job.state import (
    STATE_NAMES,
    AttemptEnded,
    KnownJob,
    Queued,
    Running,
    evolve,
)
from coordinator.domain.matching.needs import asked_price, unmet
from coordinator.domain.messages import Principal
from coordinator.domain.miner import Draining, MinerState, Online

Outcome = Literal["failed", "lost", "released"]


def claim(state: Queued, command: AttemptCommand, context: AttemptContext | CompletionContext) -> JobStarted:
    if context.now >= state.job.expires_at:
        raise Refusal(Code.CONFLICT_STATE, "the job's time to live is over; drop the offer")
    miner = live_session(context.miner, command)
    if not context.offered:  # first: the reasons below tell about the job
        raise not_offered()
    capabilities = miner.registered.capabilities
    job = state.job
    reasons = unmet(job.service, job.constraints, capabilities, job.list_price, job.unit)
    if reasons:
        raise Refusal(Code.NOT_CAPABLE, "this miner " + "; ".join(reasons))
    return JobStarted(
        at=context.now,
        by=context.principal.name,
        job_id=state.job.job_id,
        client=state.job.client,
        attempt=command.attempt,
        miner_id=command.miner_id,
        session_id=command.session_id,
        miner_key=miner.registered.public_key,
        unit_price=unit_price(asked_price(capabilities, job.unit), job.list_price),
    )


def live_session(miner: MinerState, command: AttemptCommand) -> Online:
    if isinstance(miner, Draining) and miner.session_id == command.session_id:
        raise Refusal(
            Code.MINER_DRAINING, "this miner is draining: it finishes its jobs and gets no new ones"
        )
    if not isinstance(miner, Online) or miner.session_id != command.session_id:
        raise Refusal(Code.SESSION_NOT_LIVE, "this session is not live; register again with a new session id")
    return miner


def holds(lease: JobStarted | JobCompleted, command: AttemptCommand) -> bool:
    return (
        lease.attempt == command.attempt
        and lease.session_id == command.session_id
        and lease.miner_id == command.miner_id
    )


def check_speaker(command: AttemptCommand, principal: Principal) -> None:
    if not principal.owns_miner(command.miner_id):
        raise Refusal(Code.FORBIDDEN, f"{principal.name} can't speak for miner {command.miner_id}")


def end_attempt(
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


def was_ended_by(state: KnownJob, command: AttemptCommand, outcome: Outcome) -> bool:
    report = (command.attempt, command.miner_id, command.session_id, outcome)
    return any((e.attempt, e.miner_id, e.session_id, e.outcome) == report for e in state.ended)


def raise_late(state: KnownJob, command: AttemptCommand) -> NoReturn:
    raise too_late(state, command.attempt)


def too_late(state: KnownJob, attempt: int) -> Refusal:
    if STATE_NAMES[type(state)] in FINAL_STATES:
        return already_final(state)
    detail = f"attempt {attempt} is over or belongs to another session; drop the work"
    return Refusal(Code.STALE_ATTEMPT, detail)


def already_final(state: KnownJob) -> Refusal:
    return Refusal(Code.CONFLICT_STATE, f"the job is {STATE_NAMES[type(state)]}, which is final")


def not_offered() -> Refusal:
    """The refusal of a claim without the token of the offer."""
    return Refusal(
        Code.NOT_OFFERED,
        "this attempt was not offered to this miner's profile; claim with the token of the offer",
    )
