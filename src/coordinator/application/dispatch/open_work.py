"""The dispatcher's model of open jobs: queued, offered or running. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import assert_never
from uuid import UUID

from coordinator.application.dispatch.fair_queue import FairQueue, QueuedWork
from coordinator.application.dispatch.fleet import Fleet, OutstandingOffer, Profile, Session
from coordinator.application.dispatch.judge import SHORTEST_IDLE_SECONDS, Judge
from coordinator.application.dispatch.retries import Retries, add_try, tries
from coordinator.application.dispatch.running import Hint, RunningAttempt
from coordinator.application.dispatch.standing import Standing
from coordinator.application.dispatch.unstored import Changes, Unstored, submitted_work
from coordinator.application.metrics import OpenOffers, WorkMetrics
from coordinator.application.ports import Recorded
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobFailed,
    JobLose,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    is_job_event,
)
from coordinator.domain.matching.needs import Needs
from coordinator.domain.messages import principal_of
from coordinator.domain.miner import (
    MinerDrained,
    MinerEvent,
    MinerLeft,
    MinerLost,
    MinerRegistered,
    is_miner_event,
)
from coordinator.domain.standing import is_standing_event

_NEED_WORK = (JobStarted, JobRequeued)
MAX_CLASSES = 5000
"""Classes in memory before the ones without open jobs are dropped."""


class OpenWork:
    """Every job in memory is in one place: queued, offered to a profile, or running."""

    def __init__(self) -> None:
        self.fair_queue = FairQueue()
        self.fleet = Fleet()
        self.retries = Retries()
        self.judged = Judge(self.fleet, self._note_standing)
        self._running: dict[str, RunningAttempt] = {}
        self._offered_to: dict[str, str] = {}
        """By job id: the profile that has the offer."""
        self._unstored = Unstored()
        self._storing = Unstored()
        self._now = 0.0
        self._late: Counter[str] = Counter()
        """By job: its offers that nobody claimed in time."""
        self._left_lying: dict[str, str] = {}
        """By job: the principal that did not claim its offer in time, though a slot was free. It counts once
        another one claims the job: as long as nobody can claim, unclaimed offers mean nothing."""

    # --- a batch of events ----------------------------------------------------------------------------------
    def unknown(self, events: Sequence[Recorded]) -> list[str]:
        """The jobs of these events that must be read from the table before `note`."""
        new = {e.key for e in events if isinstance(e.event, JobSubmitted)}
        return [
            e.key
            for e in events
            if isinstance(e.event, _NEED_WORK) and e.key not in new and self._known(e.key) is None
        ]

    def note(self, events: Sequence[Recorded], found: Sequence[QueuedWork], now: float) -> list[Hint]:
        """Take in these committed events; returns the hints for miners.

        `found`: the unknown jobs, from the table; `now`: monotonic.
        """
        self._unstored.work |= {work.job_id: work for work in found}
        self._now = now
        return [hint for recorded in events for hint in self._note(recorded)]

    def gather(self) -> Changes:
        """The changes since the last call, whose changes are in the tables by now."""
        self._storing, self._unstored = self._unstored, Unstored()
        return self._storing.changes()

    def _note(self, recorded: Recorded) -> Iterator[Hint]:
        event = recorded.event
        if is_job_event(event):
            yield from self._note_job(event, recorded)
        elif is_miner_event(event):
            yield from self._note_miner(event)
        elif is_standing_event(event):
            self.judged.note_event(event, self._now)

    def _note_job(self, event: JobEvent, recorded: Recorded) -> Iterator[Hint]:
        job_id, unstored = recorded.key, self._unstored
        match event:
            case JobSubmitted():
                work = submitted_work(event, recorded)
                if not self.fleet.knows_class(event.job_class):
                    needs = Needs(**dict(event.constraints), list_price=event.list_price, unit=event.unit)
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
                if self._late:
                    del self._late[job_id]
                    self._judge_unclaimed(work, event.miner_id)
                standing = self.judged.of(event.miner_id, work.service)
                self.start(
                    RunningAttempt(work, event.miner_id, event.session_id, standing, self._now, event.at)
                )
            case JobRequeued():
                work = self._find(job_id)._replace(attempt=event.attempt, position=recorded.position)
                unstored.work[job_id] = work
                unstored.lease_holders.pop(job_id, None)
                self._end(job_id)
                self._queue(work)
            case JobAttemptEnded():
                if event.outcome == "lost":
                    yield from self._cancel_hint(job_id)
                self._note_ended_attempt(event)
            case JobCompleted():
                unstored.end(job_id)
                running = self._end(job_id)
                if running:
                    self._note_completed(running, event)
            case JobFailed():
                unstored.end(job_id)
                running = self._end(job_id)
                if running:
                    self.judged.note_no_verdict(running.work)
            case JobCanceled() | JobExpired():
                yield from self._cancel_hint(job_id)
                known = self._known(job_id)
                if known is not None:
                    self.judged.note_no_verdict(known)
                unstored.end(job_id)
                self._end(job_id)
                self.withdraw(job_id)
                del self._late[job_id]
                self._left_lying.pop(job_id, None)
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
            used |= self.retries.classes()
            used |= {running.work.job_class for running in self._running.values()}
            used |= {o.work.job_class for p in self.fleet.profiles.values() for o in p.offered.values()}
            self.fleet.forget_classes(used)

    # --- single jobs ----------------------------------------------------------------------------------------
    def start(self, running: RunningAttempt) -> None:
        self._running[running.work.job_id] = running
        self.fleet.count_running(running.miner_id, running.session_id, +1)
        running.standing.outstanding += 1

    def offer(self, profile: Profile, works: Sequence[QueuedWork], now: float) -> None:
        """Note that these jobs are (about to be) on the profile's queue."""
        for work in works:
            if work.job_id not in profile.offered:
                self.fleet.standing_of(profile, work.service).outstanding += 1
            profile.offered[work.job_id] = OutstandingOffer(work, now)
            self._offered_to[work.job_id] = profile.id
            if work.tried or self.retries:
                self.retries.remove(work.job_id)

    def withdraw(self, job_id: str) -> None:
        """Remove a job from the queued and offered ones."""
        self.fair_queue.remove(job_id)
        if self.retries:
            self.retries.remove(job_id)
        found = self._offer_of(job_id)
        self._offered_to.pop(job_id, None)
        if found:
            profile, offered = found
            self.fleet.standing_of(profile, offered.work.service).outstanding -= 1
            del profile.offered[job_id]

    def take_back(self, works: Sequence[QueuedWork], behind: int | None = None) -> None:
        """Put the jobs of failed offers back at the heads of their lanes, oldest first.

        `behind`: behind the jobs that were queued up to this position instead.
        """
        # Each at the head pushes the one before it back; at the end they stay in order.
        for work in sorted(works, key=lambda work: work.position, reverse=behind is None):
            self.withdraw(work.job_id)
            if work.tried:
                self.retries.add(work, self._now)
            else:
                self.fair_queue.put_back(work)

    def take_back_late(self, profile: Profile, works: Sequence[QueuedWork], now: float) -> None:
        """Withdraw offers that nobody claimed in time; they go elsewhere if they can.

        They count against the principal if it had slots free, and another one claims them.
        """
        self._now = now
        for work in works[: profile.free_slots]:
            self._left_lying[work.job_id] = profile.principal
            self.fleet.standing_of(profile, work.service).hold_back(now)
        for work in works:
            self.withdraw(work.job_id)
            self._late[work.job_id] += 1
            self.retries.add(work, now, profile.principal, self._late[work.job_id])

    def place_retries(self, now: float, count: int, *, hopeless: bool = False) -> dict[str, list[QueuedWork]]:
        """Up to `count` jobs that were tried before, by the profile that they are now offered to."""
        self._now = now
        placed: dict[str, list[QueuedWork]] = {}
        if self.retries:
            for profile, work in self.retries.places(self.fleet, now, count, hopeless=hopeless):
                self.offer(profile, [work], now)
                placed.setdefault(profile.id, []).append(work)
        return placed

    def overdue(self, now: float) -> list[JobLose]:
        """Commands that end attempts which take far longer than others need, at a principal without trust.

        A job loses one attempt that way at most: some jobs do take long.
        """
        due: list[JobLose] = []
        for running in self._running.values():  # oldest first
            if now - running.since < SHORTEST_IDLE_SECONDS:
                break
            work = running.work
            if any(outcome in ("lost", "too_slow") for outcome, _ in tries(work.tried)):
                continue
            limit = self.judged.patience(
                running.miner_id, work.service, running.since, partial(self._would_start, work, running, now)
            )
            if limit is not None and now - running.since > limit:
                due.append(
                    JobLose(
                        job_id=UUID(work.job_id),
                        attempt=work.attempt,
                        reason=f"not done after {limit:g} seconds, while other miners need far less",
                        error_code="TOO_SLOW",
                        traceparent=work.traceparent or None,
                    )
                )
        return due

    def is_offered(self, work: QueuedWork, profile: Profile) -> bool:
        """Whether this very offer is still outstanding; the job may have been started or canceled since."""
        offered = profile.offered.get(work.job_id)
        return offered is not None and offered.work is work

    def offered(self, job_id: str) -> tuple[str, float] | None:
        """The profile that has the job's offer, and since when, in monotonic seconds."""
        found = self._offer_of(job_id)
        return found and (found[0].id, found[1].at)

    def is_outdated(self, work: QueuedWork) -> bool:
        """Whether a job that the table has as queued is now offered, running, final or queued again."""
        outdated = self._unstored.outdates(work) or self._storing.outdates(work)
        return outdated or self.is_taken(work.job_id)

    def is_taken(self, job_id: str) -> bool:
        """Whether the job is offered, running or waits for a retry."""
        return job_id in self._running or job_id in self.retries or self._offer_of(job_id) is not None

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

    def offers(self) -> OpenOffers:
        """The number of offers, by class and by profile."""
        profiles = self.fleet.profiles.values()
        by_class = Counter(offer.work.job_class for p in profiles for offer in p.offered.values())
        return OpenOffers(by_class, {p.id: len(p.offered) for p in profiles})

    def _would_start(self, work: QueuedWork, running: RunningAttempt, now: float) -> bool:
        """Whether nothing else is queued, and another principal with trust has a slot free for this job."""
        if not self.fair_queue.empty or self.retries:
            return False
        holder = principal_of(running.miner_id)
        return any(
            work.job_class in profile.classes
            and profile.principal != holder
            and self.fleet.standing_of(profile, work.service).trusted
            and profile.free_slots > len(profile.offered)
            for profile in self.fleet.profiles.values()
        )

    def _queue(self, work: QueuedWork) -> None:
        if work.tried:
            self.retries.add(work, self._now)
        else:
            self.fair_queue.add(work)

    def _judge_unclaimed(self, work: QueuedWork, miner_id: str) -> None:
        principal = self._left_lying.pop(work.job_id, None)
        if principal is not None and principal != principal_of(miner_id):
            self.judged.note_unclaimed(principal, work, self._now)

    def _end(self, job_id: str) -> RunningAttempt | None:
        running = self._running.pop(job_id, None)
        if running:
            self.fleet.count_running(running.miner_id, running.session_id, -1)
            running.standing.outstanding -= 1
        return running

    def _note_ended_attempt(self, event: JobAttemptEnded) -> None:
        job_id = str(event.job_id)
        running = self._running.get(job_id)
        if running is None:
            return
        outcome = "too_slow" if event.error_code == "TOO_SLOW" else event.outcome
        work = running.work._replace(tried=add_try(running.work.tried, outcome, event.miner_id))
        self._running[job_id] = running._replace(work=work)
        # Stored as still running: the next event says what the job is now.
        self._unstored.work[job_id] = work
        self._unstored.lease_holders[job_id] = (running.miner_id, running.session_id)
        self.judged.note_ended(event.miner_id, outcome, work, self._now)

    def _note_completed(self, running: RunningAttempt, event: JobCompleted) -> None:
        profile = self.fleet.profile_of(running.miner_id)
        if profile:
            profile.completions.add(1, self._now)
        millis = None if running.started_at is None else event.at - running.started_at
        self.judged.note_completed(running.standing, running.work, millis, self._now)

    def _note_standing(self, standing: Standing) -> None:
        self._unstored.standings[standing.principal, standing.service] = standing

    def _find(self, job_id: str) -> QueuedWork:
        """An open job, from any place in memory."""
        work = self._known(job_id)
        assert work is not None
        return work

    def _known(self, job_id: str) -> QueuedWork | None:
        running = self._running.get(job_id)
        if running:
            return running.work
        offered = self._offer_of(job_id)
        if offered:
            return offered[1].work
        return (
            self.fair_queue.get(job_id)
            or self.retries.get(job_id)
            or self._unstored.work.get(job_id)
            or self._storing.work.get(job_id)
        )

    def _offer_of(self, job_id: str) -> tuple[Profile, OutstandingOffer] | None:
        profile = self.fleet.profiles.get(self._offered_to.get(job_id, ""))
        return (profile, profile.offered[job_id]) if profile and job_id in profile.offered else None

    def _cancel_hint(self, job_id: str) -> Iterator[Hint]:
        running = self._running.get(job_id)
        if running:
            body = {"hint": "cancel", "job_id": job_id, "attempt": running.work.attempt}
            yield Hint(running.miner_id, body)
