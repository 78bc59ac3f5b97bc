"""The dispatcher's model of the miners: sessions by profile, their free slots, and their offers.

Pure: no I/O, no clock. A profile's window of offers is sized in time: its free slots, plus the attempts that
ended within the last WINDOW_SECONDS. So quick work never waits for the dispatcher, and slow work never hoards
offers. Ended attempts are counted, not begun ones, and never extrapolated: a thousand slots that begin (or
end) an hour's work at one moment would otherwise look quick, and urgent jobs would wait behind their offers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.domain.matching import Capabilities, Needs, satisfies, tightness

WINDOW_SECONDS = 1.0
MAX_BUNDLE = 50  # offers per message


@dataclass(slots=True)
class Session:
    """One miner's current session."""

    miner_id: str
    session_id: str
    concurrency: int
    state: Literal["ONLINE", "DRAINING", "OFFLINE"]
    running: int = 0

    @property
    def free_slots(self) -> int:
        return max(0, self.concurrency - self.running)


@dataclass(slots=True)
class OutstandingOffer:
    """An offer on a profile's queue."""

    work: QueuedWork
    at: float


@dataclass(slots=True, eq=False)
class Profile:
    """All miners with the same capabilities; they share one work queue."""

    id: str
    capabilities: Capabilities
    sessions: dict[str, Session] = field(default_factory=dict)
    """The sessions that take new work, by session id."""
    classes: set[str] = field(default_factory=set)
    """The classes that these miners can serve."""
    offered: dict[str, OutstandingOffer] = field(default_factory=dict)
    """The offers on the queue by job id, oldest first."""
    ended: deque[tuple[float, int]] = field(default_factory=deque)
    """(moment, attempts) of the attempts that ended within the last WINDOW_SECONDS."""
    ended_sum: int = 0
    free_slots: int = 0
    """Of all sessions; a running total, because it is needed after every batch of events."""

    @property
    def bundle(self) -> int:
        """The most offers in one message: no miner gets more offers than it can run."""
        return min((s.concurrency for s in self.sessions.values()), default=1)

    def join(self, session: Session) -> None:
        """A session begins to take new work."""
        self.sessions[session.session_id] = session
        self.free_slots += session.free_slots

    def leave(self, session: Session) -> None:
        """A session takes no more new work."""
        if self.sessions.pop(session.session_id, None) is not None:
            self.free_slots -= session.free_slots

    def count_running(self, session: Session, change: int) -> None:
        """A session begins or ends attempts."""
        before = session.free_slots
        session.running += change
        if session.session_id in self.sessions:
            self.free_slots += session.free_slots - before

    def count_ended(self, attempts: int, now: float) -> None:
        self.ended.append((now, attempts))
        self.ended_sum += attempts

    def room(self, now: float) -> int:
        """The number of offers that are missing on the queue."""
        while self.ended and self.ended[0][0] < now - WINDOW_SECONDS:
            self.ended_sum -= self.ended.popleft()[1]
        return max(0, self.free_slots + self.ended_sum - len(self.offered)) if self.sessions else 0

    def bundles(self, works: list[QueuedWork]) -> list[list[QueuedWork]]:
        """These offers as messages: one each while several miners have slots free, else packed."""
        free = max(0, self.free_slots - len(self.offered))
        size = min(MAX_BUNDLE, self.bundle)
        # With only one miner, no other one idles beside a large bundle.
        if size == 1 or (len(works) <= free and len(self.sessions) > 1):
            return [[work] for work in works]
        return [works[i : i + size] for i in range(0, len(works), size)]


class Fleet:
    """All profiles, and the classes that each can serve, compared once per pair."""

    def __init__(self) -> None:
        self.profiles: dict[str, Profile] = {}
        self._classes: dict[str, tuple[str, Needs]] = {}
        self._by_miner: dict[str, tuple[Profile, Session]] = {}
        self._order: list[Profile] | None = None

    def knows_class(self, job_class: str) -> bool:
        return job_class in self._classes

    def add_class(self, job_class: str, service: str, needs: Needs) -> None:
        if job_class in self._classes:
            return
        self._classes[job_class] = (service, needs)
        for profile in self.profiles.values():
            if satisfies(service, needs, profile.capabilities, needs.list_price):
                profile.classes.add(job_class)

    def forget_classes(self, used: set[str]) -> None:
        """Drop the classes without open jobs; a class that comes back is compared again."""
        for job_class in self._classes.keys() - used:
            del self._classes[job_class]
        for profile in self.profiles.values():
            profile.classes &= used

    @property
    def known_classes(self) -> int:
        return len(self._classes)

    def register(self, profile_id: str, capabilities: Capabilities, session: Session) -> None:
        """Add a miner's new session, which replaces the former one."""
        self.end(session.miner_id)
        profile = self.profiles.get(profile_id)
        if profile is None:
            profile = self.profiles[profile_id] = Profile(profile_id, capabilities)
            profile.classes = {
                job_class
                for job_class, (service, needs) in self._classes.items()
                if satisfies(service, needs, capabilities, needs.list_price)
            }
            self._order = None
        self._by_miner[session.miner_id] = (profile, session)
        if session.state == "ONLINE":
            profile.join(session)

    def drain(self, miner_id: str) -> None:
        """The miner takes no new work."""
        if miner_id in self._by_miner:
            profile, session = self._by_miner[miner_id]
            session.state = "DRAINING"
            profile.leave(session)

    def end(self, miner_id: str) -> None:
        """End the miner's session. `forget_idle` drops a profile without miners once it has no offers."""
        known = self._by_miner.pop(miner_id, None)
        if known:
            profile, session = known
            profile.leave(session)

    def forget_idle(self) -> None:
        """Drop profiles without miners and offers; a profile that comes back is created again."""
        idle = [p for p in self.profiles.values() if not p.sessions and not p.offered]
        if not idle:
            return
        used = {id(profile) for profile, _ in self._by_miner.values()}
        for profile in idle:
            if id(profile) not in used:
                del self.profiles[profile.id]
                self._order = None

    def count_running(self, miner_id: str, session_id: str, change: int) -> None:
        known = self._by_miner.get(miner_id)
        if known and known[1].session_id == session_id:
            known[0].count_running(known[1], change)

    def tightest_first(self) -> list[Profile]:
        """Profiles, the least capable first: work goes to the smallest miner that can do it."""
        if self._order is None:
            self._order = sorted(self.profiles.values(), key=lambda p: tightness(p.capabilities))
        return self._order

    def sessions(self) -> list[Session]:
        """The current session of every miner."""
        return [session for _, session in self._by_miner.values()]

    def profile_of(self, miner_id: str) -> Profile | None:
        known = self._by_miner.get(miner_id)
        return known[0] if known else None
