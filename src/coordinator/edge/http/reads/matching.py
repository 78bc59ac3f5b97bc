"""The answers to why a job waits, and why a miner has no work, from the log and the tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from coordinator.application.matches.queued_jobs import MAX_BEFORE
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import (
    FINAL_STATES,
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobStateName,
    JobSubmitted,
    error_of,
    is_job_event,
    state_after,
)
from coordinator.domain.matching.job_report import MatchReport
from coordinator.domain.matching.miner_report import (
    MinerFacts,
    improvement_text,
    miner_report,
    reasons_to_idle,
)
from coordinator.domain.matching.reasons import QueuedFacts, Reason, reasons_to_wait, text_of
from coordinator.domain.messages import READS_ALL, Principal, principal_of
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.reads.reading import may_read
from coordinator.edge.models.base import moment, rfc3339
from coordinator.edge.models.jobs import JobError
from coordinator.edge.models.matches import (
    ComparedProfile,
    ImprovementView,
    JobMatch,
    MinerMatch,
    ReasonView,
    RelaxationView,
    UnmetView,
)
from coordinator.edge.state.tables.rows import MinerRow
from coordinator.edge.state.threads import in_thread

MAX_PROFILES: Final = 200
"""The profiles in an admin's answer, those that lack the least first."""
MAX_MODELS: Final = 50


async def match_of_job(context: EdgeContext, principal: Principal, job_id: UUID) -> JobMatch:
    """Why this job waits, or how it is. Raises Refusal, the same one for another client's as for no job.

    The job is read from the log, so that it is never older than the answer to its submit. The miners are as
    the read models have them.
    """
    recorded = (await context.live.events.histories([job_id])).get(job_id, [])
    events = [(r.position, r.event) for r in recorded if is_job_event(r.event)]
    if not events or not may_read(principal, events[0][1].client):
        raise Refusal(Code.JOB_NOT_FOUND, "no such job")
    submitted = events[0][1]
    assert isinstance(submitted, JobSubmitted)
    state: JobStateName = [after for _, e in events if (after := state_after(e)) is not None][-1]
    report = None
    if state == "QUEUED":
        report = await context.miners.report(
            submitted.service, submitted.constraints, submitted.list_price, submitted.unit
        )
    admin = principal.role in READS_ALL
    if report is not None:
        facts = await _queued_facts(context, submitted, events)
        sentence, reasons = reasons_to_wait(report, facts)
        told = _of_report(report, submitted.constraints.models, admin=admin)
        told["offered_to"] = facts.offered.profile if admin and facts.offered else None
    else:
        sentence, reasons = _sentence(state, [e for _, e in events], admin=admin), []
        told = _NO_REPORT
    last = events[-1][1]
    holder = last.miner_id if admin and isinstance(last, JobStarted) else None
    error = error_of(last) if isinstance(last, JobFailed | JobExpired | JobCanceled) else None
    return JobMatch.model_validate(
        {
            "job_id": job_id,
            "state": state,
            "sentence": sentence,
            "service": submitted.service,
            "constraints": submitted.constraints,
            "reasons": [_reason(r) for r in reasons],
            "attempt": _attempt(events),
            "since": last.at,
            "expires_at": submitted.expires_at,
            "error": error and JobError(code=error.code, message=error.message),
            "miner_id": holder,
            **told,
        }
    )


async def match_of_miner(context: EdgeContext, row: MinerRow, *, names: bool) -> MinerMatch:
    """Why this miner has no work. `names`: with models, regions and services of other people's jobs."""
    profiles = await context.miners.get()
    own = next((p for p in profiles if p.profile == row.profile), None)
    classes = await context.queued_jobs.classes()
    running = await context.queued_jobs.running_of(row.miner_id, row.session_id)
    report = await in_thread(lambda: miner_report(row.offered, classes))
    held = [own.quarantine(service) for service in row.services] if own else []
    facts = MinerFacts(
        state=row.state,
        concurrency=row.concurrency,
        running=running,
        # One service that it may have jobs of is enough to work.
        quarantine=min(held, key=("", "probes", "by hand").index, default=""),
        may_take=own is None or any(own.may_take(service) for service in row.services),
    )
    sentence, reasons = reasons_to_idle(report, facts)
    improvements = [
        ImprovementView.model_validate(
            {
                "constraint": i.constraint,
                "to": i.to if names or i.constraint not in _OTHERS else None,
                "jobs": i.jobs,
                "text": improvement_text(i, names=names),
            }
        )
        for i in report.improvements
    ]
    return MinerMatch(
        miner_id=row.miner_id,
        state=row.state,
        sentence=sentence,
        reasons=[_reason(r) for r in reasons],
        improvements=improvements,
        slots=row.concurrency,
        busy_slots=running,
        queued_jobs=report.queued,
        queued_jobs_of_its_services=report.of_its_services,
        queued_jobs_fitting=report.fitting,
    )


_OTHERS: Final = frozenset({"models", "region", "service"})
"""Improvements whose values are words of other people's jobs."""
_NO_REPORT: Final[dict[str, Any]] = {
    "relaxations": [],
    "models": {},
    "miners_online": 0,
    "miners_running_service": 0,
    "miners_found": 0,
    "offered_to": None,
    "profiles": [],
}


async def _queued_facts(
    context: EdgeContext, submitted: JobSubmitted, events: Sequence[tuple[int, JobEvent]]
) -> QueuedFacts:
    job_id = submitted.job_id
    tried = {principal_of(e.miner_id) for _, e in events if isinstance(e, JobAttemptEnded)}
    payloads = await in_thread(lambda: context.log.payloads("payload", [job_id]))
    before = 0
    if not tried:  # a job that was tried before goes first
        before = await context.queued_jobs.own_before(
            submitted.client, submitted.job_class, submitted.priority, events[0][0]
        )
    return QueuedFacts(
        expires_in=max(0, (submitted.expires_at - time.time_ns() // 1_000_000) // 1000),
        own_before=before,
        own_before_at_least=before >= MAX_BEFORE,
        payload_erased=job_id not in payloads,
        tried=frozenset(tried),
        offered=context.offered(str(job_id)),
    )


def _of_report(report: MatchReport, models: Sequence[str], *, admin: bool) -> dict[str, Any]:
    compared = sorted(report.compared, key=lambda pair: (len(pair[1]), pair[0].profile)) if admin else []
    return {
        "relaxations": [
            RelaxationView.model_validate(
                {
                    "constraint": r.constraint,
                    "asked": list(r.asked) if isinstance(r.asked, tuple) else r.asked,
                    "to": list(r.to) if isinstance(r.to, tuple) else r.to,
                    "miners": r.miners,
                    "text": text_of(r),
                }
            )
            for r in report.relaxations
        ],
        "models": dict(report.models[:MAX_MODELS]) if models else {},
        "miners_online": report.online,
        "miners_running_service": report.running_service,
        "miners_found": report.found,
        "profiles": [
            ComparedProfile(
                profile=profile.profile,
                principal=profile.principal,
                online=profile.online,
                draining=profile.draining,
                slots=profile.slots,
                busy_slots=profile.busy,
                quarantine=profile.quarantine(report.service),
                unmet=[UnmetView(constraint=u.constraint, text=u.text) for u in unmet],
            )
            for profile, unmet in compared[:MAX_PROFILES]
        ],
    }


def _sentence(state: JobStateName, events: Sequence[JobEvent], *, admin: bool) -> str:
    """One sentence on a job that does not wait."""
    last = events[-1]
    if state not in FINAL_STATES:
        started = next(e for e in reversed(events) if isinstance(e, JobStarted))
        by = f" on {started.miner_id}" if admin else ""
        return f"Runs{by} since {rfc3339(moment(started.at))} (attempt {started.attempt})."
    at = rfc3339(moment(last.at))
    if isinstance(last, JobFailed | JobExpired | JobCanceled):
        error = error_of(last)
        why = f": {' '.join(error.message.split())}" if error.message else ""
        code = f" ({error.code})" if error.code != state else ""
        return f"Ended {state}{code} at {at}{why}"
    return f"Ended {state} at {at}."


def _attempt(events: Sequence[tuple[int, JobEvent]]) -> int:
    """The newest attempt, 1 before the first."""
    counted = (JobStarted, JobRequeued, JobCompleted, JobAttemptEnded)
    return max((e.attempt for _, e in events if isinstance(e, counted)), default=1)


def _reason(reason: Reason) -> ReasonView:
    return ReasonView(code=reason.code, text=reason.text, constraint=reason.constraint, counts=reason.counts)
