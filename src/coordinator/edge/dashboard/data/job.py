"""The page Job: one sentence first, then lanes, attempts, events and the result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json

from coordinator.application.payloads.bodies import blob_of_body
from coordinator.application.ports import Recorded
from coordinator.application.search.found import FoundJob
from coordinator.domain.content import sentence as erased_sentence
from coordinator.domain.job import JobCancel, JobSubmitAgain, JobSubmitted, is_job_event, sentence
from coordinator.domain.messages import Millis, read_traceparent
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.money.payment import PaymentLine, payment_of
from coordinator.edge.dashboard.data.result import ResultKind, ResultView, ShownFile, result_of
from coordinator.edge.dashboard.data.timeline import (
    AttemptLine,
    LaneName,
    Lease,
    Outcome,
    TimelineLane,
    TimelineSpan,
    attempts_of,
    lanes_of,
)
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.effects import take_effect
from coordinator.edge.http.reads.matching import match_of_job
from coordinator.edge.http.reads.reading import find_job
from coordinator.edge.http.reads.stored_payloads import erasures, stored_payload
from coordinator.edge.state.tables.rows import JobRow

__all__ = [
    "AttemptLine",
    "EventLine",
    "JobStory",
    "LaneName",
    "Outcome",
    "ReasonLine",
    "RelaxationLine",
    "ResultKind",
    "ResultView",
    "ShownFile",
    "TimelineLane",
    "TimelineSpan",
    "cancel",
    "found_job",
    "story",
    "submit_again",
]

MAX_REQUEST_BYTES: Final = 16 * 1024
"""A larger payload is not copied into a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine:
    """One event of the log."""

    position: int
    at: Millis
    topic: str
    by: str
    text: str
    """A sentence."""
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonLine:
    """One reason why the job waits."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxationLine:
    """The smallest change of one constraint that would find miners."""

    constraint: str
    text: str
    miners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStory:
    """Everything that the page of one job shows."""

    job: FoundJob
    sentence: str
    """Plain, first on the page."""
    reasons: tuple[ReasonLine, ...]
    """Of a job that waits, the decisive one first."""
    relaxations: tuple[RelaxationLine, ...]
    lanes: tuple[TimelineLane, ...]
    attempts: tuple[AttemptLine, ...]
    events: tuple[EventLine, ...]
    result: ResultView
    constraints: dict[str, Any]
    list_price: str
    unit: str
    """Of the list price."""
    timeout_seconds: int
    trace_id: str | None
    request: dict[str, Any] | None
    """The body of the same request, for copies as curl, CLI and Python; None if the payload was erased or is
    large."""
    payload_erased: int | None
    """The position of the event that says so."""
    result_erased: int | None
    has_receipt: bool
    has_passport: bool
    """Once a checkpoint covers the job: a second or so after its end."""
    payment: PaymentLine | None
    """None if nothing was paid, or not yet."""
    may_cancel: bool
    """Whether this viewer could cancel it now."""
    may_submit_again: bool
    now: Millis
    position: int
    """The last event's."""


async def story(context: EdgeContext, viewer: Viewer, job_id: UUID) -> JobStory:
    """Everything about one job. Raises Refusal, the same one for another client's job as for no job."""
    _ = viewer.client  # refuses roles that see no jobs
    row = await find_job(context, viewer.principal, job_id)
    recorded, match, erased, result, request, lease = await asyncio.gather(
        context.live.events.histories([job_id]),
        match_of_job(context, viewer.principal, job_id),
        erasures(context, job_id),
        result_of(context, row),
        _request(context, row),
        context.reads.lease(str(job_id)),
    )
    history = [r for r in recorded[job_id] if is_job_event(r.event)]
    events = [r.event for r in history if is_job_event(r.event)]
    submitted = events[0]
    assert isinstance(submitted, JobSubmitted)
    now = _now()
    held = None if lease is None else Lease(lease["attempt"], lease["lease_until"])
    lines = _lines(history)
    for position, event in erased:
        told = event.model_copy(update={"jobs": (job_id,)})  # the others may be another client's
        lines.append(
            EventLine(
                position=position,
                at=event.at,
                topic=event.topic,
                by=event.by,
                text=erased_sentence(event),
                facts=told.model_dump(mode="json"),
            )
        )
    trace = read_traceparent(history[0].traceparent)
    own = viewer.may_change_job_of(row.client)
    return JobStory(
        job=found_job(row),
        sentence=match.sentence,
        reasons=tuple(ReasonLine(code=r.code.value, text=r.text) for r in match.reasons),
        relaxations=tuple(
            RelaxationLine(constraint=r.constraint, text=r.text, miners=r.miners) for r in match.relaxations
        ),
        lanes=lanes_of(events, now, context.offered(str(job_id)), held),
        attempts=attempts_of(events, now),
        events=tuple(lines),
        result=result,
        constraints=submitted.constraints.model_dump(mode="json", exclude_defaults=True),
        list_price=submitted.list_price,
        unit=submitted.unit or "second",
        timeout_seconds=submitted.timeout_seconds,
        trace_id=None if trace is None else trace.split("-")[1],
        request=request,
        payload_erased=row.payload_erased,
        result_erased=row.result_erased,
        has_receipt=row.is_completed,
        has_passport=row.is_final and context.proofs is not None,
        payment=await payment_of(context, viewer, row.id)
        if row.is_completed or row.state == "CANCELED"
        else None,
        may_cancel=own and not row.is_final,
        may_submit_again=own and row.is_final and row.payload_erased is None,
        now=now,
        position=lines[-1].position,
    )


async def cancel(context: EdgeContext, viewer: Viewer, job_id: UUID, reason: str = "") -> int:
    """Cancel the job as this viewer; the position of the effect. Raises Refusal."""
    command = JobCancel(job_id=job_id, reason=reason)
    return (await take_effect(context, viewer, command)).position


async def submit_again(context: EdgeContext, viewer: Viewer, job_id: UUID, form: str = "") -> UUID:
    """Submit a final job again, for its client; the new job's id. Raises Refusal.

    `form`: an id of the page's form; the same form submits once.
    """
    command = JobSubmitAgain(job_id=job_id, idempotency_key=f"form/{form}" if form else None)
    return UUID((await take_effect(context, viewer, command)).body["job_id"])


def found_job(row: JobRow) -> FoundJob:
    """The job as lists show it."""
    return FoundJob(
        job_id=row.job_id,
        client=row.client,
        service=row.service,
        state=row.state,
        priority=row.priority,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        miner_id=row.miner_id,
        requested_at=row.requested_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        error_code=row.error_code,
        error_message=row.error_message,
        position=row.position,
    )


async def _request(context: EdgeContext, row: JobRow) -> dict[str, Any] | None:
    stored = await stored_payload(context, row.id, "payload")
    if stored is None or len(stored.body) > MAX_REQUEST_BYTES:
        return None
    if blob_of_body(stored, row.payload_digest) is not None:
        return None
    return {
        "service": row.service,
        "payload": from_json(stored.body),
        "constraints": from_json(row.constraints_json),
        "priority": row.priority,
        "max_attempts": row.max_attempts,
        "ttl_seconds": max(1, (row.expires_at - row.requested_at) // 1000),
    }


def _lines(history: Sequence[Recorded]) -> list[EventLine]:
    return [
        EventLine(
            position=recorded.position,
            at=recorded.event.at,
            topic=recorded.event.topic,
            by=recorded.event.by,
            text=sentence(recorded.event),
            facts=recorded.event.model_dump(mode="json"),
        )
        for recorded in history
        if is_job_event(recorded.event)
    ]


def _now() -> Millis:
    return time.time_ns() // 1_000_000
