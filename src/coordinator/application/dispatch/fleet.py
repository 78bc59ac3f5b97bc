"""The dispatcher's model of the miners: sessions by profile, their free slots, and their offers.

Pure: no I/O, no clock. A profile's window of offers is sized in time: its free slots, plus the jobs that were
completed within the last WINDOW_SECONDS. So quick work never waits for the dispatcher, and slow work never
hoards offers. Completions are counted, not starts, and never extrapolated: a thousand slots that begin (or
end) an hour's work at one moment would otherwise look quick, and urgent jobs would wait behind their offers.
Failures don't count: to fail at once must not bring more work. Within this window, the standing of the
principal for each service bounds what all its profiles have together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.dispatch.standing import NEWCOMER_TOTAL, Rate, Standing
from coordinator.domain.matching.needs import Capabilities, Needs, satisfies, tightness
from coordinator.domain.messages import principal_of

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
    """All miners of one principal with the same capabilities; they share one work queue."""

    id: str
    capabilities: Capabilities
    principal: str
    sessions: dict[str, Session] = field(default_factory=dict)
    """The sessions that take new work, by session id."""
    classes: set[str] = field(default_factory=set)
    """The classes that these miners can serve."""
    offered: dict[str, OutstandingOffer] = field(default_factory=dict)
    """The offers on the queue by job id, oldest first."""
    completions: Rate = field(default_factory=Rate)
    free_slots: int = 0
    """Of all sessions; a running total, because it is needed after every batch of events."""
    tightness: tuple[int, int, int] = (0, 0, 0)
    served: int = 0
    """The number of the last refill that it got offers from: equals take turns."""
    standings: dict[str, Standing] = field(default_factory=dict)
    """By service, those that were needed yet."""

    _bundle: int | None = None

    @property
    def bundle(self) -> int:
        """The most offers in one message: no miner gets more offers than it can run."""
        if self._bundle is None:
            self._bundle = min((s.concurrency for s in self.sessions.values()), default=1)
        return self._bundle

    def join(self, session: Session) -> None:
        """A session begins to take new work."""
        self.sessions[session.session_id] = session
        self._bundle = None
        self.free_slots += session.free_slots

    def leave(self, session: Session) -> None:
        """A session takes no more new work."""
        if self.sessions.pop(session.session_id, None) is not None:
            self.free_slots -= session.free_slots
            self._bundle = None

    def count_running(self, session: Session, change: int) -> None:
        """A session begins or ends attempts."""
        before = session.free_slots
        session.running += change
        if session.session_id in self.sessions:
            self.free_slots += session.free_slots - before

    def room(self, now: float) -> int:
        """The number of offers that are missing on the queue, whatever the standing."""
        if not self.sessions:
            return 0
        return max(0, self.free_slots + self.completions.within(now) - len(self.offered))

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
        self._doubtful: list[Profile] = []
        self._refills = 0
        self.standings: dict[tuple[str, str], Standing] = {}
        """By principal and service."""
        self._of_principal: dict[str, list[Standing]] = {}
        self.barred: set[str] = set()
        """Principals in quarantine for every service."""
        self._slots: dict[str, int] = {}
        """By principal: the registered slots of its sessions that take new work."""
        self._serving: dict[str, set[str]] = {}
        """By service: the principals out of quarantine that take new work. Computed on demand."""

    def knows_class(self, job_class: str) -> bool:
        return job_class in self._classes

    def add_class(self, job_class: str, service: str, needs: Needs) -> None:
        if job_class in self._classes:
            return
        self._classes[job_class] = (service, needs)
        for profile in self.profiles.values():
            if satisfies(service, needs, profile.capabilities, needs.list_price, needs.unit):
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
            principal = principal_of(session.miner_id)
            profile = self.profiles[profile_id] = Profile(
                profile_id, capabilities, principal, tightness=tightness(capabilities)
            )
            profile.classes = {
                job_class
                for job_class, (service, needs) in self._classes.items()
                if satisfies(service, needs, capabilities, needs.list_price, needs.unit)
            }
            self._order = None
        self._by_miner[session.miner_id] = (profile, session)
        if session.state == "ONLINE":
            profile.join(session)
            self._count_slots(profile, session.concurrency)

    def drain(self, miner_id: str) -> None:
        """The miner takes no new work."""
        if miner_id in self._by_miner:
            profile, session = self._by_miner[miner_id]
            session.state = "DRAINING"
            self._leave(profile, session)

    def end(self, miner_id: str) -> None:
        """End the miner's session. `forget_idle` drops a profile without miners once it has no offers."""
        known = self._by_miner.pop(miner_id, None)
        if known:
            self._leave(*known)

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
        """Profiles, the least capable first: work goes to the smallest miner that can do it.

        Principals with bad outcomes come last, so that declaring less brings nobody work that it fails.
        Equals take turns.
        """
        if self._order is None:
            self._order = sorted(self.profiles.values(), key=_rank)
            self._doubtful = [profile for profile in self._order if _is_doubtful(profile)]
        return self._order

    def doubtful(self) -> list[Profile]:
        """The profiles whose principals have bad outcomes: each gets a job now and then, to show better."""
        self.tightest_first()
        return self._doubtful

    def note_served(self, profile: Profile) -> None:
        """The profile got offers: its equals come before it."""
        self._refills += 1
        profile.served = self._refills
        if len(self.profiles) > 1:
            self._order = None

    # --- standing -------------------------------------------------------------------------------------------
    def standing(self, principal: str, service: str) -> Standing:
        """The standing of this principal for this service."""
        standing = self.standings.get((principal, service))
        if standing is None:
            standing = Standing(principal, service)
            self.load(standing)
        return standing

    def load(self, standing: Standing) -> None:
        """Add a standing, from the table."""
        self.standings[standing.principal, standing.service] = standing
        self._of_principal.setdefault(standing.principal, []).append(standing)

    def standing_of(self, profile: Profile, service: str) -> Standing:
        """The standing of a profile's principal for this service."""
        standing = profile.standings.get(service)
        if standing is None:
            standing = profile.standings[service] = self.standing(profile.principal, service)
        return standing

    def room(self, profile: Profile, service: str, now: float, *, disputes: bool = True) -> int:
        """The number of offers of this service that the profile may get."""
        room = profile.room(now)
        if not room or profile.principal in self.barred:
            return 0
        alone = self.is_alone(profile.principal, service)
        standing = self.standing_of(profile, service)
        if not standing.completed and not alone:
            room = min(room, self.newcomer_room(profile.principal))
        return max(0, min(room, standing.room(now, alone=alone, disputes=disputes)))

    def newcomer_room(self, principal: str) -> int:
        """The number of offers that it may get of all services of which it has completed nothing.

        Many services must not make a newcomer many slots.
        """
        known = self._of_principal.get(principal, ())
        return NEWCOMER_TOTAL - sum(s.outstanding for s in known if not s.completed)

    def is_newcomer(self, profile: Profile, service: str) -> bool:
        """Whether the profile's principal has completed nothing of a service that others serve, too."""
        return not (self.standing_of(profile, service).completed or self.is_alone(profile.principal, service))

    def takes_any(self, profile: Profile, now: float) -> bool:
        """Whether the profile may get an offer of any service."""
        return any(self.room(profile, service, now) for service in profile.capabilities.services)

    def serving(self, service: str) -> set[str]:
        """The principals that take new work of this service, without those in quarantine."""
        found = self._serving.get(service)
        if found is None:
            found = self._serving[service] = {
                profile.principal
                for profile in self.profiles.values()
                if profile.sessions
                and service in profile.capabilities.services
                and self._is_free(profile, service)
            }
        return found

    def is_alone(self, principal: str, service: str) -> bool:
        """Whether no other principal takes new work of this service."""
        serving = self.serving(service)
        return not serving or (len(serving) == 1 and principal in serving)

    def slots_of(self, principal: str) -> int:
        """The registered slots of all its sessions that take new work."""
        return self._slots.get(principal, 0)

    def note_changed_standing(self) -> None:
        """A quarantine began or ended, or trust was lost or won."""
        self._order = None
        self._serving.clear()

    def _is_free(self, profile: Profile, service: str) -> bool:
        return profile.principal not in self.barred and not self.standing_of(profile, service).quarantine

    def _leave(self, profile: Profile, session: Session) -> None:
        if session.session_id in profile.sessions:
            profile.leave(session)
            self._count_slots(profile, -session.concurrency)

    def _count_slots(self, profile: Profile, change: int) -> None:
        slots = self._slots[profile.principal] = self._slots.get(profile.principal, 0) + change
        if not slots:
            del self._slots[profile.principal]
        self._serving.clear()

    def sessions(self) -> list[Session]:
        """The current session of every miner."""
        return [session for _, session in self._by_miner.values()]

    def profile_of(self, miner_id: str) -> Profile | None:
        known = self._by_miner.get(miner_id)
        return known[0] if known else None


class Rooms(dict[str, int]):
    """By service: the number of offers that a profile may still get; computed on demand.

    The services in which it is a newcomer share one room.
    """

    def __init__(self, fleet: Fleet, profile: Profile, now: float) -> None:
        super().__init__()
        self._fleet = fleet
        self._profile = profile
        self._now = now
        self._shared: dict[str, int] = {}
        """The rooms of the services in which the profile is a newcomer."""
        self._left = 0
        """What these may get together."""

    def __missing__(self, service: str) -> int:
        if service in self._shared:
            return max(0, min(self._shared[service], self._left))
        room = self._fleet.room(self._profile, service, self._now)
        if self._fleet.is_newcomer(self._profile, service):
            if not self._shared:
                self._left = self._fleet.newcomer_room(self._profile.principal)
            self._shared[service] = room
            return max(0, min(room, self._left))
        super().__setitem__(service, room)
        return room

    def __setitem__(self, service: str, room: int) -> None:
        if service not in self._shared:
            super().__setitem__(service, room)
            return
        taken = self[service] - room
        self._shared[service] -= taken
        self._left -= taken


def _rank(profile: Profile) -> tuple[bool, tuple[int, int, int], int]:
    return (_is_doubtful(profile), profile.tightness, profile.served)


def _is_doubtful(profile: Profile) -> bool:
    return any(s.streak or s.quarantine for s in profile.standings.values())
