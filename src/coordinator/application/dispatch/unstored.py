"""The changes of the dispatcher's model that its tables do not have yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.dispatch.standing import Standing
from coordinator.application.ports import Recorded, Row
from coordinator.domain.job import JobSubmitted


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of a batch of events in the tables; only the last state of each row."""

    rows: list[Row]
    """New rows of open_work."""
    gone: set[str]
    """Keys of rows to delete from open_work."""
    classes: list[Row]
    """New rows of work_classes."""
    standings: list[Row]
    """New rows of standings."""


@dataclass(slots=True)
class Unstored:
    """The changes of noted events that the tables do not have yet."""

    work: dict[str, QueuedWork] = field(default_factory=dict)
    """Changed open jobs by id; for some of them the only place in memory."""
    lease_holders: dict[str, tuple[str, str]] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)
    """Jobs that the tables never had: a job that is final before it is stored costs no row."""
    gone: set[str] = field(default_factory=set)
    classes: dict[str, Row] = field(default_factory=dict)
    standings: dict[tuple[str, str], Standing] = field(default_factory=dict)

    def end(self, job_id: str) -> None:
        """The job is final."""
        self.work.pop(job_id, None)
        if job_id not in self.new:
            self.gone.add(job_id)

    def outdates(self, work: QueuedWork) -> bool:
        """Whether this row of the table is outdated."""
        known = self.work.get(work.job_id)
        return work.job_id in self.gone or (known is not None and known.position != work.position)

    def changes(self) -> Changes:
        rows: list[Row] = []
        for job_id, work in self.work.items():
            miner_id, session_id = self.lease_holders.get(job_id, (None, None))
            rows.append({**work._asdict(), "miner_id": miner_id, "session_id": session_id})
        standings = [standing.row() for standing in self.standings.values()]
        return Changes(rows, self.gone, list(self.classes.values()), standings)


def submitted_work(event: JobSubmitted, recorded: Recorded) -> QueuedWork:
    """The work that this event queues."""
    return QueuedWork(
        job_id=recorded.key,
        attempt=1,
        job_class=event.job_class,
        client=event.client,
        priority=event.priority,
        position=recorded.position,
        service=event.service,
        payload_digest=event.payload_digest,
        timeout_seconds=event.timeout_seconds,
        expires_at=event.expires_at,
        traceparent=recorded.traceparent,
    )
