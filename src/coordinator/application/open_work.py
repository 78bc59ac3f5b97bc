"""What the dispatcher knows of open jobs: on the shelf, offered, or running. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from coordinator.application.figures import WorkFigures
from coordinator.application.fleet import Fleet, Offered, Profile, Session
from coordinator.application.ports import Recorded, Row
from coordinator.application.shelf import Shelf, Work
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
)
from coordinator.domain.miner import MinerDrained, MinerLeft, MinerLost, MinerRegistered

MAX_CLASSES = 5000
"""Classes in memory before those are dropped that no open job has."""


class Running(NamedTuple):
    """A job that a miner holds."""

    work: Work
    miner_id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch of events changes in the tables: only what is left at its end."""

    rows: list[Row]
    """Of open_work."""
    gone: set[str]
    classes: list[Row]
    """Of work_classes."""


NO_CHANGES = Changes([], set(), [])


class Hint(NamedTuple):
    miner_id: str
    body: Mapping[str, Any]


class OpenWork:
    """Every job is in one place: on the shelf, offered to a profile, or running. Spilled ones are in none."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.fleet = Fleet()
        self._running: dict[str, Running] = {}
        self._offered_to: dict[str, str] = {}
        """The profile that a job is offered to."""
        self._strays: dict[str, Work] = {}
        """Open jobs of the current batch that may be nowhere else in memory."""

    # --- a batch of events ----------------------------------------------------------------------------------
    def unknown(self, events: Sequence[Recorded]) -> list[str]:
        """Jobs of these events that must be read from the table before `changes`."""
        return [
            str(e.event.job_id)
            for e in events
            if isinstance(e.event, JobStarted | JobRequeued) and not self._knows(str(e.event.job_id))
        ]

    def changes(self, events: Sequence[Recorded], found: Sequence[Work]) -> Changes:
        """What to write; `found`: the unknown as the table has them. What came and went costs no row."""
        self._strays = {work.job_id: work for work in found}
        work: dict[str, Work] = {}
        holders: dict[str, tuple[str, str]] = {}
        born: set[str] = set()
        final: set[str] = set()
        classes: dict[str, Row] = {}
        for recorded in events:
            event = recorded.event
            match event:
                case JobSubmitted():
                    job_id = str(event.job_id)
                    born.add(job_id)
                    work[job_id] = _submitted(event, recorded.position)
                    if not self.fleet.knows_class(event.job_class):
                        classes[event.job_class] = {
                            "job_class": event.job_class,
                            "service": event.service,
                            "constraints_json": event.constraints.model_dump_json(exclude_none=True),
                        }
                case JobStarted():
                    job_id = str(event.job_id)
                    work[job_id] = work.get(job_id) or self._find(job_id)
                    holders[job_id] = (event.miner_id, event.session_id)
                case JobRequeued():
                    job_id = str(event.job_id)
                    known = work.get(job_id) or self._find(job_id)
                    work[job_id] = known._replace(attempt=event.attempt, position=recorded.position)
                    holders.pop(job_id, None)
                case JobCompleted() | JobFailed() | JobCanceled() | JobExpired():
                    final.add(str(event.job_id))
        self._strays |= work
        rows: list[Row] = []
        for job_id in work.keys() - final:
            miner_id, session_id = holders.get(job_id, (None, None))
            rows.append({**work[job_id]._asdict(), "miner_id": miner_id, "session_id": session_id})
        return Changes(rows, final - born, list(classes.values()))

    def note(self, events: Sequence[Recorded], now: float) -> list[Hint]:
        """Take these events in, after they are committed; what to tell which miner. `now`: monotonic."""
        ended: dict[str, int] = {}
        hints = [hint for recorded in events for hint in self._note(recorded, ended)]
        for profile_id, count in ended.items():
            if profile_id in self.fleet.profiles:
                self.fleet.profiles[profile_id].count_ended(count, now)
        return hints

    def _note(self, recorded: Recorded, ended: dict[str, int]) -> Iterator[Hint]:
        event = recorded.event
        match event:
            case JobSubmitted():
                self.fleet.add_class(event.job_class, event.service, event.constraints)
                self.shelf.add(_submitted(event, recorded.position))
            case JobStarted():
                job_id = str(event.job_id)
                work = self._find(job_id)
                self.withdraw(job_id)
                self.start(Running(work, event.miner_id, event.session_id))
            case JobRequeued():
                job_id = str(event.job_id)
                work = self._find(job_id)
                self._end(job_id, ended)
                self.shelf.add(work._replace(attempt=event.attempt, position=recorded.position))
            case JobAttemptEnded():
                if event.outcome == "lost":
                    yield from self._cancel_hint(str(event.job_id))
            case JobCompleted() | JobFailed():
                self._end(str(event.job_id), ended)
            case JobCanceled() | JobExpired():
                job_id = str(event.job_id)
                yield from self._cancel_hint(job_id)
                self._end(job_id, ended)
                self.withdraw(job_id)
            case MinerRegistered():
                session = Session(event.miner_id, event.session_id, event.concurrency, "ONLINE")
                self.fleet.register(event.profile, event.capabilities, session)
            case MinerDrained():
                self.fleet.drain(event.miner_id)
                yield Hint(event.miner_id, {"hint": "drain", "session_id": event.session_id})
            case MinerLeft() | MinerLost():
                self.fleet.end(event.miner_id)

    def forget_classes(self) -> None:
        """Drop the classes of jobs that are over, once there are many: any client can make new ones."""
        if self.fleet.known_classes > MAX_CLASSES:
            used = self.shelf.classes()
            used |= {running.work.job_class for running in self._running.values()}
            used |= {o.work.job_class for p in self.fleet.profiles.values() for o in p.offered.values()}
            self.fleet.forget_classes(used)

    # --- single jobs ----------------------------------------------------------------------------------------
    def start(self, running: Running) -> None:
        self._running[running.work.job_id] = running
        self.fleet.count_running(running.miner_id, running.session_id, +1)

    def offer(self, profile: Profile, works: Sequence[Work], now: float) -> None:
        """These jobs are (about to be) on the profile's queue."""
        for work in works:
            profile.offered[work.job_id] = Offered(work, now)
            self._offered_to[work.job_id] = profile.id

    def withdraw(self, job_id: str) -> None:
        """The job is neither on the shelf nor offered any more."""
        self.shelf.remove(job_id)
        found = self._offer_of(job_id)
        self._offered_to.pop(job_id, None)
        if found:
            del found[0].offered[job_id]

    def take_back(self, work: Work) -> None:
        """An offer in vain: back to the head of its lane."""
        self.withdraw(work.job_id)
        self.shelf.put_back(work)

    def is_offered(self, work: Work, profile: Profile) -> bool:
        """Whether this very offer still stands: the job may have been started or cancelled meanwhile."""
        offered = profile.offered.get(work.job_id)
        return offered is not None and offered.work is work

    def is_out(self, job_id: str) -> bool:
        """Whether the job is offered or running."""
        return job_id in self._running or self._offer_of(job_id) is not None

    def figures(self) -> WorkFigures:
        """What is offered and running, and who there is to run it."""
        sessions = self.fleet.sessions()
        taking = [s for s in sessions if s.state == "ONLINE"]
        return WorkFigures(
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
        return job_id in self.shelf or self.is_out(job_id)

    def _find(self, job_id: str) -> Work:
        """What is known of an open job, wherever it is."""
        running = self._running.get(job_id)
        if running:
            return running.work
        offered = self._offer_of(job_id)
        if offered:
            return offered[1].work
        return self.shelf.get(job_id) or self._strays[job_id]

    def _offer_of(self, job_id: str) -> tuple[Profile, Offered] | None:
        profile = self.fleet.profiles.get(self._offered_to.get(job_id, ""))
        return (profile, profile.offered[job_id]) if profile and job_id in profile.offered else None

    def _cancel_hint(self, job_id: str) -> Iterator[Hint]:
        running = self._running.get(job_id)
        if running:
            body = {"hint": "cancel", "job_id": job_id, "attempt": running.work.attempt}
            yield Hint(running.miner_id, body)


def _submitted(event: JobSubmitted, position: int) -> Work:
    return Work(
        job_id=str(event.job_id),
        attempt=1,
        job_class=event.job_class,
        client=event.client,
        priority=event.priority,
        position=position,
        service=event.service,
        payload_digest=event.payload_digest,
        timeout_seconds=event.timeout_seconds,
        expires_at=event.expires_at,
    )
