"""The timeline of one job: its lanes and attempts, from its events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from coordinator.domain.job import (
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
from coordinator.domain.matching.reasons import Offered
from coordinator.domain.messages import Millis

LaneName = Literal["queued", "offered", "lease", "attempt", "result"]
Outcome = Literal["waits", "runs", "completed", "failed", "lost", "released", "canceled", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineSpan:
    """A stretch of a lane. `end` None: it goes on."""

    begin: Millis
    end: Millis | None
    outcome: Outcome
    text: str
    """A few words: the miner, and the error's code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineLane:
    """One line of the timeline, oldest span first."""

    name: LaneName
    label: str
    """`queued`, `attempt 2`, …"""
    spans: tuple[TimelineSpan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLine:
    """One attempt. An attempt that nobody claimed yet has no miner."""

    attempt: int
    miner_id: str | None
    outcome: Outcome
    begun_at: Millis | None
    ended_at: Millis | None
    seconds: float | None
    """From the claim to the end; to now while it runs."""
    error_code: str | None
    error_message: str | None
    units: str | None
    cost: str | None
    """The billed price; only completed attempts are billed."""
    metrics: dict[str, int | str]
    """As the miner reported them."""


class Lease(NamedTuple):
    """The lease of the running attempt."""

    attempt: int
    until: Millis


def attempts_of(events: Sequence[JobEvent], now: Millis) -> tuple[AttemptLine, ...]:
    """The attempts of a job, in order; the last one may still wait for a miner."""
    found: list[AttemptLine] = []
    started: JobStarted | None = None
    waiting: int | None = 1
    for event in events:
        match event:
            case JobSubmitted():
                pass
            case JobStarted():
                started, waiting = event, None
            case JobRequeued():
                waiting = event.attempt
            case JobAttemptEnded():
                if started is not None:
                    found.append(_ended(started, event, event.outcome))
                started = None
            case JobCompleted():
                if started is not None:
                    found.append(_ended(started, event, "completed"))
                started = None
            case JobCanceled():
                if started is not None:
                    found.append(_ended(started, event, "canceled"))
                started, waiting = None, None
            case JobExpired():
                if started is not None:
                    found.append(_ended(started, event, "expired"))
                started, waiting = None, None
            case JobFailed():
                waiting = None
    if started is not None:
        found.append(_running(started, now))
    elif waiting is not None:
        found.append(_waits(waiting))
    return tuple(found)


def lanes_of(
    events: Sequence[JobEvent], now: Millis, offered: Offered | None = None, lease: Lease | None = None
) -> tuple[TimelineLane, ...]:
    """The lanes of a job: waits, its offer and its lease of now, each attempt, and the result."""
    waits: list[TimelineSpan] = []
    since: Millis | None = None
    for event in events:
        if isinstance(event, JobSubmitted | JobRequeued):
            since = event.at
        elif since is not None:
            waits.append(TimelineSpan(begin=since, end=event.at, outcome=_end_of_wait(event), text=""))
            since = None
    if since is not None:
        waits.append(TimelineSpan(begin=since, end=None, outcome="waits", text="waits for a miner"))
    lanes = [TimelineLane(name="queued", label="queued", spans=tuple(waits))]
    if offered is not None:
        text = f"offered to {offered.profile}"
        span = TimelineSpan(begin=now - 1000 * offered.seconds, end=None, outcome="waits", text=text)
        lanes.append(TimelineLane(name="offered", label="offered", spans=(span,)))
    for line in attempts_of(events, now):
        if line.begun_at is None:
            continue
        text = " · ".join(part for part in (line.miner_id, line.error_code) if part)
        span = TimelineSpan(begin=line.begun_at, end=line.ended_at, outcome=line.outcome, text=text)
        lanes.append(TimelineLane(name="attempt", label=f"attempt {line.attempt}", spans=(span,)))
        if lease is not None and lease.attempt == line.attempt and line.ended_at is None:
            held = TimelineSpan(begin=line.begun_at, end=lease.until, outcome="runs", text="lease")
            lanes.append(TimelineLane(name="lease", label="lease", spans=(held,)))
    last = events[-1]
    if isinstance(last, JobCompleted):
        text = f"{last.result_bytes} bytes" if last.result_bytes else "result"
        span = TimelineSpan(begin=last.at, end=last.at, outcome="completed", text=text)
        lanes.append(TimelineLane(name="result", label="result", spans=(span,)))
    return tuple(lanes)


def _end_of_wait(event: JobEvent) -> Outcome:
    match event:
        case JobCanceled():
            return "canceled"
        case JobExpired():
            return "expired"
        case _:
            return "completed"


def _ended(
    started: JobStarted, event: JobAttemptEnded | JobCompleted | JobCanceled | JobExpired, outcome: Outcome
) -> AttemptLine:
    completed = event if isinstance(event, JobCompleted) else None
    failed = event if isinstance(event, JobAttemptEnded) else None
    reported = completed or failed
    return AttemptLine(
        attempt=started.attempt,
        miner_id=started.miner_id,
        outcome=outcome,
        begun_at=started.at,
        ended_at=event.at,
        seconds=(event.at - started.at) / 1000,
        error_code=failed.error_code if failed else None,
        error_message=(failed.error_message or None) if failed else None,
        units=completed.units if completed else None,
        cost=completed.price if completed else None,
        metrics=dict(reported.metrics) if reported else {},
    )


def _running(started: JobStarted, now: Millis) -> AttemptLine:
    return AttemptLine(
        attempt=started.attempt,
        miner_id=started.miner_id,
        outcome="runs",
        begun_at=started.at,
        ended_at=None,
        seconds=max(0, now - started.at) / 1000,
        error_code=None,
        error_message=None,
        units=None,
        cost=None,
        metrics={},
    )


def _waits(attempt: int) -> AttemptLine:
    return AttemptLine(
        attempt=attempt,
        miner_id=None,
        outcome="waits",
        begun_at=None,
        ended_at=None,
        seconds=None,
        error_code=None,
        error_message=None,
        units=None,
        cost=None,
        metrics={},
    )
