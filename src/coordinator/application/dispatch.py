"""The dispatcher: keeps a window of offers on each profile's work queue, driven by its table of queued work.

Publishing follows the commit. What is offered is known in memory only: a process that takes over offers
everything anew, and so does the one whose broker comes back; an offer is not the job, repeating one is
harmless. An offer that nobody claims within `offer_timeout` goes back to the shelf and is offered again,
elsewhere where it can be.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from coordinator.application.fleet import Fleet, Offered, Profile, Session
from coordinator.application.follow import FollowerBase
from coordinator.application.ports import (
    Clock,
    Database,
    EventLog,
    Hints,
    Offer,
    Recorded,
    Row,
    StoredPayload,
    Tables,
    WorkQueues,
)
from coordinator.application.shelf import LANE_HEAD, Lane, Shelf, Work
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
from coordinator.domain.matching import Capabilities, Constraints
from coordinator.domain.miner import MinerDrained, MinerLeft, MinerLost, MinerRegistered

MAX_REFILL = 500  # offers a profile gets in one go
MAX_REOFFERS = 200  # late offers taken back in one tick

log = structlog.get_logger("dispatcher")


class Running(NamedTuple):
    """A job that a miner holds."""

    work: Work
    miner_id: str
    session_id: str


class Dispatcher(FollowerBase):
    """See the module. Its tables: open_work, work_classes, work_sessions."""

    name = "dispatcher"
    tick_seconds = 0.25

    def __init__(
        self,
        event_log: EventLog,
        database: Database,
        queues: WorkQueues,
        hints: Hints,
        clock: Clock,
        offer_timeout: float,
    ) -> None:
        """`offer_timeout`: seconds."""
        self._log = event_log
        self._database = database
        self._queues = queues
        self._hints = hints
        self._clock = clock
        self._offer_timeout = offer_timeout
        self._reset = False
        self._hinting: set[asyncio.Task[None]] = set()
        self.shelf = Shelf()
        self.fleet = Fleet()
        self._running: dict[str, Running] = {}
        self._offered_to: dict[str, str] = {}
        """The profile that a job is offered to."""
        self._strays: dict[str, Work] = {}
        """Open jobs of the current batch that may be nowhere else in memory."""
        queues.on_reset(self._note_reset)

    # --- tables ---------------------------------------------------------------------------------------------
    def take_over(self, tables: Tables) -> None:
        self.shelf, self.fleet, self._running = Shelf(), Fleet(), {}
        for row in tables.query("dispatch_classes"):
            wants = Constraints.model_validate_json(row["constraints_json"])
            self.fleet.add_class(row["job_class"], row["service"], wants)
        for row in tables.query("dispatch_sessions"):
            capabilities = Capabilities.model_validate_json(row["capabilities_json"])
            session = Session(row["miner_id"], row["session_id"], row["concurrency"], row["state"])
            if session.state != "OFFLINE":
                self.fleet.register(row["profile"], capabilities, session)
        for row in tables.query("dispatch_running"):
            self._start(Running(_from_row(row), row["miner_id"], row["session_id"]))
        for row in tables.query("dispatch_lanes"):
            self._load_lane(tables, self.shelf.lane((row["job_class"], row["priority"], row["client"])))

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        # Only what is left at the batch's end is written: a job that came and went costs no row.
        unknown = [
            str(e.event.job_id)
            for e in events
            if isinstance(e.event, JobStarted | JobRequeued) and not self._knows(str(e.event.job_id))
        ]
        found = tables.query("dispatch_open_work", job_ids=unknown) if unknown else []
        self._strays = {row["job_id"]: _from_row(row) for row in found}
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
        nobody = (None, None)
        rows = [
            {**w._asdict(), **dict(zip(("miner_id", "session_id"), holders.get(i, nobody), strict=True))}
            for i, w in work.items()
            if i not in final
        ]
        if rows:
            tables.put("open_work", rows)
        if gone := final - born:
            tables.remove("open_work", gone)
        if classes:
            tables.put("work_classes", list(classes.values()))
        self._apply_sessions(tables, events)

    def _apply_sessions(self, tables: Tables, events: Sequence[Recorded]) -> None:
        for recorded in events:
            event = recorded.event
            match event:
                case MinerRegistered():
                    row = {
                        "miner_id": event.miner_id,
                        "session_id": event.session_id,
                        "profile": event.profile,
                        "capabilities_json": event.capabilities.model_dump_json(exclude_none=True),
                        "concurrency": event.concurrency,
                        "state": "ONLINE",
                    }
                    tables.put("work_sessions", [row])
                case MinerDrained():
                    tables.execute("dispatch_end_session", miner_id=event.miner_id, state="DRAINING")
                case MinerLeft() | MinerLost():
                    tables.execute("dispatch_end_session", miner_id=event.miner_id, state="OFFLINE")

    # --- memory ---------------------------------------------------------------------------------------------
    async def after(self, events: Sequence[Recorded]) -> None:
        now = self._clock.monotonic()
        taken: dict[str, int] = {}
        for recorded in events:
            self._note(recorded, taken)
        for profile_id, count in taken.items():
            if profile_id in self.fleet.profiles:
                self.fleet.profiles[profile_id].count_taken(count, now)

    def _note(self, recorded: Recorded, taken: dict[str, int]) -> None:
        event = recorded.event
        match event:
            case JobSubmitted():
                self.fleet.add_class(event.job_class, event.service, event.constraints)
                self.shelf.add(_submitted(event, recorded.position))
            case JobStarted():
                job_id = str(event.job_id)
                work = self._find(job_id)
                self._withdraw(job_id)
                self._start(Running(work, event.miner_id, event.session_id))
                profile = self.fleet.profile_of(event.miner_id)
                if profile:
                    taken[profile.id] = taken.get(profile.id, 0) + 1
            case JobRequeued():
                job_id = str(event.job_id)
                work = self._find(job_id)
                self._end(job_id)
                self.shelf.add(work._replace(attempt=event.attempt, position=recorded.position))
            case JobAttemptEnded():
                if event.outcome == "lost":
                    self._hint_cancel(str(event.job_id))
            case JobCompleted() | JobFailed():
                self._end(str(event.job_id))
            case JobCanceled() | JobExpired():
                job_id = str(event.job_id)
                self._hint_cancel(job_id)
                self._end(job_id)
                self._withdraw(job_id)
            case MinerRegistered():
                session = Session(event.miner_id, event.session_id, event.concurrency, "ONLINE")
                self.fleet.register(event.profile, event.capabilities, session)
            case MinerDrained():
                self.fleet.drain(event.miner_id)
                self._hint(event.miner_id, {"hint": "drain"})
            case MinerLeft() | MinerLost():
                self.fleet.end(event.miner_id)

    def _knows(self, job_id: str) -> bool:
        return job_id in self._running or job_id in self.shelf or self._offer_of(job_id) is not None

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

    def _withdraw(self, job_id: str) -> None:
        self.shelf.remove(job_id)
        found = self._offer_of(job_id)
        self._offered_to.pop(job_id, None)
        if found:
            del found[0].offered[job_id]

    def _start(self, running: Running) -> None:
        self._running[running.work.job_id] = running
        self.fleet.count_running(running.miner_id, running.session_id, +1)

    def _end(self, job_id: str) -> None:
        running = self._running.pop(job_id, None)
        if running:
            self.fleet.count_running(running.miner_id, running.session_id, -1)

    # --- offers ---------------------------------------------------------------------------------------------
    async def tick(self) -> None:
        now = self._clock.monotonic()
        if self._reset:
            self._reset = False
            self._take_back_all()
        await self._reoffer_late(now)
        for profile in self.fleet.tightest_first():
            room = min(MAX_REFILL, profile.room(now))
            if room:
                await self._refill(profile, room)
        self.fleet.forget_idle()

    async def _refill(self, profile: Profile, room: int) -> None:
        drained = list(self.shelf.drained_lanes(profile.classes))
        if drained:
            await asyncio.to_thread(self._load_lanes, drained)
        works = self.shelf.take(profile.classes, room)
        if works:
            await self._publish(profile, works)

    async def _publish(self, profile: Profile, works: list[Work]) -> None:
        bundles = profile.bundles(works)
        now = self._clock.monotonic()
        for work in works:
            profile.offered[work.job_id] = Offered(work, now)
            self._offered_to[work.job_id] = profile.id
        missed: set[str] = {work.job_id for work in works}
        try:
            payloads = await asyncio.to_thread(self._log.payloads, "payload", [UUID(w.job_id) for w in works])
            offers = [[_offer(w, payloads) for w in bundle] for bundle in bundles]
            known = [[o for o in bundle if o is not None] for bundle in offers]
            unsent = await self._queues.publish(profile.id, [bundle for bundle in known if bundle])
            missed = {str(o.job_id) for o in unsent}
        except ConnectionError as error:
            log.warning("offers were not published", profile=profile.id, offers=len(works), error=str(error))
        finally:
            # Also when this is cancelled: what did not arrive is on the shelf, not in between.
            for work in reversed(works):
                if work.job_id in missed:
                    self._withdraw(work.job_id)
                    self.shelf.put_back(work)

    async def _reoffer_late(self, now: float) -> None:
        """Offer anew what nobody claimed in time, elsewhere where it can be; at a bounded rate."""
        left = MAX_REOFFERS
        elsewhere: dict[str, list[Work]] = {}
        for profile in self.fleet.tightest_first():
            late: list[Work] = []
            for offered in profile.offered.values():  # oldest first
                if now - offered.at < self._offer_timeout or len(late) >= left:
                    break
                late.append(offered.work)
            left -= len(late)
            for work in late:
                self._withdraw(work.job_id)
                other = self._other_profile(profile, work, now, elsewhere)
                if other:
                    elsewhere.setdefault(other.id, []).append(work)
                else:
                    self.shelf.put_back(work)
        for profile_id, works in elsewhere.items():
            await self._publish(self.fleet.profiles[profile_id], works)

    def _other_profile(
        self, tried: Profile, work: Work, now: float, given: Mapping[str, list[Work]]
    ) -> Profile | None:
        for profile in self.fleet.tightest_first():
            fits = profile is not tried and work.job_class in profile.classes
            if fits and profile.room(now) > len(given.get(profile.id, ())):
                return profile
        return None

    def _take_back_all(self) -> None:
        for profile in self.fleet.tightest_first():
            for offered in reversed(list(profile.offered.values())):
                self._withdraw(offered.work.job_id)
                self.shelf.put_back(offered.work)

    def _note_reset(self) -> None:
        self._reset = True

    def _load_lanes(self, lanes: Sequence[Lane]) -> None:
        with self._database.transaction() as tables:
            for lane in lanes:
                self._load_lane(tables, lane)

    def _load_lane(self, tables: Tables, lane: Lane) -> None:
        job_class, priority, client = lane.key
        rows = tables.query(
            "dispatch_lane_work",
            job_class=job_class,
            priority=priority,
            client=client,
            position=lane.cursor,
            count=LANE_HEAD,
        )
        self.shelf.load(lane, map(_from_row, rows), complete=len(rows) < LANE_HEAD)

    # --- hints ----------------------------------------------------------------------------------------------
    def _hint_cancel(self, job_id: str) -> None:
        running = self._running.get(job_id)
        if running:
            hint = {"hint": "cancel", "job_id": job_id, "attempt": running.work.attempt}
            self._hint(running.miner_id, hint)

    def _hint(self, miner_id: str, hint: Mapping[str, Any]) -> None:
        """Send a hint without waiting for it: a lost one costs time, never correctness."""

        async def send() -> None:
            try:
                await self._hints.send(miner_id, hint)
            except Exception as error:
                log.debug("a hint was lost", miner=miner_id, error=str(error))

        task = asyncio.create_task(send())
        self._hinting.add(task)
        task.add_done_callback(self._hinting.discard)


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


def _from_row(row: Row) -> Work:
    return Work(*(row[name] for name in Work._fields))


def _offer(work: Work, payloads: Mapping[UUID, StoredPayload]) -> Offer | None:
    """None where the payload was erased: nobody can do this job any more; it expires."""
    stored = payloads.get(UUID(work.job_id))
    if stored is None:
        return None
    body = json.loads(stored.body)
    blob = body.get("blob") if set(body) == {"blob"} else None
    return Offer(
        job_id=UUID(work.job_id),
        attempt=work.attempt,
        service=work.service,
        payload=None if blob else body,
        payload_blob=blob,
        payload_salt=stored.salt.hex(),
        payload_digest=work.payload_digest,
        timeout_seconds=work.timeout_seconds,
        expires_at=work.expires_at,
    )
