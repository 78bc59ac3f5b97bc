"""The dispatcher's model of open jobs: queued, offered or running. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, assert_never

from coordinator.application.dispatch.fair_queue import FairQueue, QueuedWork
from coordinator.application.dispatch.fleet import Fleet, OutstandingOffer, Profile, Session
from coordinator.application.metrics import WorkMetrics
from coordinator.application.ports import Recorded, Row
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
    is_job_event,
)
from coordinator.domain.matching import Needs
from coordinator.domain.miner import (
    MinerDrained,
    MinerEvent,
    MinerLeft,
    MinerLost,
    MinerRegistered,
    is_miner_event,
)

_NEED_WORK = (JobStarted, JobRequeued)
MAX_CLASSES = 5000
"""Classes in memory before the ones without open jobs are dropped."""


class RunningAttempt(NamedTuple):
    """A job that a miner holds."""

    work: QueuedWork
    miner_id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of a batch of events in the tables; only the last state of each row."""

    rows: list[Row]
    """New rows of open_work."""
    gone: set[str]
    """Keys of rows to delete from open_work."""
    classes: list[Row]
    """New rows of work_classes."""


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
        return Changes(rows, self.gone, list(self.classes.values()))


class Hint(NamedTuple):
    miner_id: str
    body: Mapping[str, Any]


class OpenWork:
    """Every job in memory is in one place: queued, offered to a profile, or running."""

    def __init__(self) -> None:
        self.fair_queue = FairQueue()
        self.fleet = Fleet()
        self._running: dict[str, RunningAttempt] = {}
        self._offered_to: dict[str, str] = {}
        """By job id: the profile that has the offer."""
        self._unstored = Unstored()
        self._storing = Unstored()

    # --- a batch of events ----------------------------------------------------------------------------------
    def unknown(self, events: Sequence[Recorded]) -> list[str]:
        """The jobs of these events that must be read from the table before `note`."""
        new = {e.key for e in events if isinstance(e.event, JobSubmitted)}
        return [
            e.key
            for e in events
            if isinstance(e.event, _NEED_WORK) and e.key not in new and not self._knows(e.key)
        ]

    def note(self, events: Sequence[Recorded], found: Sequence[QueuedWork], now: float) -> list[Hint]:
        """Take in these committed events; returns the hints for miners.

        `found`: the unknown jobs, from the table; `now`: monotonic.
        """
        self._unstored.work |= {work.job_id: work for work in found}
        ended: dict[str, int] = {}
        hints = [hint for recorded in events for hint in self._note(recorded, ended)]
        for profile_id, count in ended.items():
            if profile_id in self.fleet.profiles:
                self.fleet.profiles[profile_id].count_ended(count, now)
        return hints

    def gather(self) -> Changes:
        """The changes since the last call, whose changes are in the tables by now."""
        self._storing, self._unstored = self._unstored, Unstored()
        return self._storing.changes()

    def _note(self, recorded: Recorded, ended: dict[str, int]) -> Iterator[Hint]:
        event = recorded.event
        if is_job_event(event):
            yield from self._note_job(event, recorded, ended)
        elif is_miner_event(event):
            yield from self._note_miner(event)

    def _note_job(self, event: JobEvent, recorded: Recorded, ended: dict[str, int]) -> Iterator[Hint]:
        job_id, unstored = recorded.key, self._unstored
        match event:
            case JobSubmitted():
                work = _submitted(event, recorded)
                if not self.fleet.knows_class(event.job_class):
                    needs = Needs(**dict(event.constraints), list_price=event.list_price)
                    unstored.classes[event.job_class] = {
                        "job_class": event.job_class,
                        "service": event.service,
                        "constraints_json": needs.model_dump_json(exclude_none=True),
                    }
                    self.fleet.add_class(event.job_class, event.service, needs)
                unstored.new.add(job_id)
                unstored.work[job_id] = work
                self.fair_queue.add(work)
            case JobStarted():
                work = unstored.work[job_id] = self._find(job_id)
                unstored.lease_holders[job_id] = (event.miner_id, event.session_id)
                self.withdraw(job_id)
                self.start(RunningAttempt(work, event.miner_id, event.session_id))
            case JobRequeued():
                work = self._find(job_id)._replace(attempt=event.attempt, position=recorded.position)
                unstored.work[job_id] = work
                unstored.lease_holders.pop(job_id, None)
                self._end(job_id, ended)
                self.fair_queue.add(work)
            case JobAttemptEnded():
                if event.outcome == "lost":
                    yield from self._cancel_hint(job_id)
            case JobCompleted() | JobFailed():
                unstored.end(job_id)
                self._end(job_id, ended)
            case JobCanceled() | JobExpired():
                yield from self._cancel_hint(job_id)
                unstored.end(job_id)
                self._end(job_id, ended)
                self.withdraw(job_id)
            case _:
                assert_never(event)

    def _note_miner(self, event: MinerEvent) -> Iterator[Hint]:
        match event:
            case MinerRegistered():
                session = Session(event.miner_id, event.session_id, event.concurrency, "ONLINE")
                self.fleet.register(event.profile, event.capabilities, session)
            case MinerDrained():
                self.fleet.drain(event.miner_id)
                yield Hint(event.miner_id, {"hint": "drain", "session_id": event.session_id})
            case MinerLeft() | MinerLost():
                self.fleet.end(event.miner_id)
            case _:
                assert_never(event)

    def forget_classes(self) -> None:
        """Drop the classes of final jobs once there are many: any client can create new classes."""
        if self.fleet.known_classes > MAX_CLASSES:
            used = self.fair_queue.classes()
            used |= {running.work.job_class for running in self._running.values()}
            used |= {o.work.job_class for p in self.fleet.profiles.values() for o in p.offered.values()}
            self.fleet.forget_classes(used)

    # --- single jobs ----------------------------------------------------------------------------------------
    def start(self, running: RunningAttempt) -> None:
        self._running[running.work.job_id] = running
        self.fleet.count_running(running.miner_id, running.session_id, +1)

    def offer(self, profile: Profile, works: Sequence[QueuedWork], now: float) -> None:
        """Note that these jobs are (about to be) on the profile's queue."""
        for work in works:
            profile.offered[work.job_id] = OutstandingOffer(work, now)
            self._offered_to[work.job_id] = profile.id

    def withdraw(self, job_id: str) -> None:
        """Remove a job from the queued and offered ones."""
        self.fair_queue.remove(job_id)
        found = self._offer_of(job_id)
        self._offered_to.pop(job_id, None)
        if found:
            del found[0].offered[job_id]

    def take_back(self, works: Sequence[QueuedWork], behind: int | None = None) -> None:
        """Put the jobs of failed offers back at the heads of their lanes, oldest first.

        `behind`: behind the jobs that were queued up to this position instead.
        """
        # Each at the head pushes the one before it back; at the end they stay in order.
        for work in sorted(works, key=lambda work: work.position, reverse=behind is None):
            self.withdraw(work.job_id)
            self.fair_queue.put_back(work, behind)

    def is_offered(self, work: QueuedWork, profile: Profile) -> bool:
        """Whether this very offer is still outstanding; the job may have been started or canceled since."""
        offered = profile.offered.get(work.job_id)
        return offered is not None and offered.work is work

    def is_outdated(self, work: QueuedWork) -> bool:
        """Whether a job that the table has as queued is now offered, running, final or queued again."""
        outdated = self._unstored.outdates(work) or self._storing.outdates(work)
        return outdated or self.is_taken(work.job_id)

    def is_taken(self, job_id: str) -> bool:
        """Whether the job is offered or running."""
        return job_id in self._running or self._offer_of(job_id) is not None

    def metrics(self) -> WorkMetrics:
        """Counts of offers, running jobs, and miners."""
        sessions = self.fleet.sessions()
        taking = [s for s in sessions if s.state == "ONLINE"]
        return WorkMetrics(
            offered=sum(len(profile.offered) for profile in self.fleet.profiles.values()),
            running=len(self._running),
            sessions={"ONLINE": len(taking), "DRAINING": len(sessions) - len(taking)},
            slots=sum(s.concurrency for s in taking),
            busy_slots=sum(min(s.running, s.concurrency) for s in taking),
            profiles=len(self.fleet.profiles),
            classes=self.fleet.known_classes,
        )

    def _end(self, job_id: str, ended: dict[str, int]) -> None:
        running = self._running.pop(job_id, None)
        if running:
            self.fleet.count_running(running.miner_id, running.session_id, -1)
            profile = self.fleet.profile_of(running.miner_id)
            if profile:
                ended[profile.id] = ended.get(profile.id, 0) + 1

    def _knows(self, job_id: str) -> bool:
        return (
            job_id in self.fair_queue
            or self.is_taken(job_id)
            or job_id in self._unstored.work
            or job_id in self._storing.work
        )

    def _find(self, job_id: str) -> QueuedWork:
        """An open job, from any place in memory."""
        running = self._running.get(job_id)
        if running:
            return running.work
        offered = self._offer_of(job_id)
        if offered:
            return offered[1].work
        return self.fair_queue.get(job_id) or self._unstored.work.get(job_id) or self._storing.work[job_id]

    def _offer_of(self, job_id: str) -> tuple[Profile, OutstandingOffer] | None:
        profile = self.fleet.profiles.get(self._offered_to.get(job_id, ""))
        return (profile, profile.offered[job_id]) if profile and job_id in profile.offered else None

    def _cancel_hint(self, job_id: str) -> Iterator[Hint]:
        running = self._running.get(job_id)
        if running:
            body = {"hint": "cancel", "job_id": job_id, "attempt": running.work.attempt}
            yield Hint(running.miner_id, body)


def _submitted(event: JobSubmitted, recorded: Recorded) -> QueuedWork:
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
        traceparent=recorded.metadata.traceparent,
    )
