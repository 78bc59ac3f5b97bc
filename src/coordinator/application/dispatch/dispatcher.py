"""The dispatcher: keeps a window of offers on each profile's work queue, driven by its table of queued work.

Publishing follows the commit of the events, not that of the table, which is written later: no job waits for
the table. Offers are known in memory only. A process offers everything again when it takes over, or when its
broker comes back; repeated offers are harmless. An offer that nobody claims within `offer_timeout` goes back
into the queue and is offered again, to another profile if possible.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import assert_never
from uuid import UUID

import structlog

from coordinator.application.background import Background
from coordinator.application.dispatch.fair_queue import Lane, QueuedWork
from coordinator.application.dispatch.fleet import Profile, Rooms, Session
from coordinator.application.dispatch.offers import offer_of, private_offer
from coordinator.application.dispatch.open_work import OpenWork
from coordinator.application.dispatch.payloads import Payloads
from coordinator.application.dispatch.running import Hint, RunningAttempt
from coordinator.application.dispatch.standing import Standing
from coordinator.application.dispatch.unstored import Changes
from coordinator.application.followers.follower import FollowerBase
from coordinator.application.health import Part
from coordinator.application.ports import (
    Clock,
    Database,
    Hints,
    Intent,
    Recorded,
    Row,
    StoredPayload,
    Tables,
    WorkQueues,
)
from coordinator.application.telemetry.spans import publish_offers
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.domain.errors import Code
from coordinator.domain.matching.needs import Capabilities, Needs
from coordinator.domain.matching.reasons import Offered
from coordinator.domain.messages import SYSTEM, Command
from coordinator.domain.miner import MinerDrained, MinerLeft, MinerLost, MinerRegistered, is_miner_event
from coordinator.wire.answers import Answer, Refused
from coordinator.wire.offers import Offer

MAX_REFILL = 500  # offers per profile and tick
MAX_UNUSED_CLASSES = 10_000  # removed after a takeover
MAX_REOFFERS = 200  # late offers taken back per tick
LENIENT_SECONDS = 10.0  # for late results, after an outage of log or broker
LOOK_SECONDS = 0.25  # between looks for quarantines and overdue attempts

log = structlog.get_logger("dispatcher")


class Dispatcher(FollowerBase):
    """See the module. Tables: open_work, work_classes, work_sessions, standings."""

    name = "dispatcher"
    tick_seconds = 0.25
    linger_seconds = 0.25

    def __init__(
        self,
        payloads: Payloads,
        database: Database,
        queues: WorkQueues,
        hints: Hints,
        clock: Clock,
        offer_timeout: float,
        tokens: OfferTokens,
        handle: Callable[[Sequence[Intent]], Awaitable[list[Answer]]],
        listening: Callable[[], bool] = lambda: True,
        is_private: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """`offer_timeout`: seconds. `handle` takes commands: quarantines, and ends of overdue attempts.

        `listening`: whether results can reach us now. `is_private(service)`: whether its offers withhold the
        payload.
        """
        self._listening = listening
        self._lenient_until = 0.0
        """No attempt is overdue before this moment: its result may not have reached us."""
        self._tokens = tokens
        self._handle = handle
        self._commands: asyncio.Task[None] | None = None
        self._looked_at = -LOOK_SECONDS
        self._payloads = payloads
        self._is_private = is_private
        self._database = database
        self._queues = queues
        self._hints = hints
        self._clock = clock
        self._offer_timeout = offer_timeout
        self._reset = False
        self.offers: Part | None = None
        """Told whether the queues take offers."""
        self._unsent = 0
        self._acted = 0
        """The position of the last event in the model."""
        self._hinting = Background("hint")
        self._changes = Changes([], set(), [], [])
        self._unused_classes: set[str] = set()
        """Classes in the table without an open job, as of the takeover."""
        self.work = OpenWork()
        queues.on_reset(self._note_reset)

    def offered(self, job_id: str) -> Offered | None:
        """The job's offer on a work queue, if there is one."""
        found = self.work.offered(job_id)
        if found is None:
            return None
        profile, at = found
        return Offered(profile=profile, seconds=int(max(0.0, self._clock.monotonic() - at)))

    # --- tables ---------------------------------------------------------------------------------------------
    def take_over(self, tables: Tables) -> None:
        self.work, self._acted = OpenWork(), 0
        fleet = self.work.fleet
        # No job needs them, and a new one brings its class back. The first batch removes them, as it alone
        # proves that no other process leads any more.
        self._unused_classes = {
            row["job_class"] for row in tables.query("dispatch_unused_classes", count=MAX_UNUSED_CLASSES)
        }
        for row in tables.query("dispatch_classes"):
            wants = Needs.model_validate_json(row["constraints_json"])
            fleet.add_class(row["job_class"], row["service"], wants)
        for row in tables.query("dispatch_sessions"):
            capabilities = Capabilities.model_validate_json(row["capabilities_json"])
            session = Session(row["miner_id"], row["session_id"], row["concurrency"], row["state"])
            if session.state != "OFFLINE":
                fleet.register(row["profile"], capabilities, session)
        now = self._clock.monotonic()
        for row in tables.query("dispatch_standings"):
            standing = Standing.from_row(row, now)
            fleet.load(standing)
            self.work.judged.note_loaded(standing)
        for row in tables.query("dispatch_running"):
            work = _from_row(row)
            standing = self.work.judged.of(row["miner_id"], work.service)
            self.work.start(RunningAttempt(work, row["miner_id"], row["session_id"], standing, now))
            self.work.judged.note_disputed(work)
        for row in tables.query("dispatch_retries"):
            work = _from_row(row)
            self.work.retries.add(work, now)
            self.work.judged.note_disputed(work)
        keys = [(r["job_class"], r["priority"], r["client"]) for r in tables.query("dispatch_lanes")]
        # All lanes exist before the first is loaded, because their number limits the head of each.
        for lane in [self.work.fair_queue.lane(key) for key in keys]:
            self._load_lane(tables, lane, 0)

    def stand_by(self) -> None:
        if self.offers is not None:
            self.offers.works()  # another process offers now

    async def act(self, events: Sequence[Recorded]) -> None:
        unknown = self.work.unknown(events)
        found = await asyncio.to_thread(self._find, unknown) if unknown else []
        self._acted = events[-1].position
        for hint in self.work.note(events, found, self._clock.monotonic()):
            self._hint(hint)

    def gather(self) -> None:
        self.hurried = False
        self._changes = self.work.gather()

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        changes = self._changes
        unused, self._unused_classes = self._unused_classes, set()
        unused -= {row["job_class"] for row in changes.classes}
        if unused:
            tables.remove("work_classes", unused)
        if changes.rows:
            tables.put("open_work", changes.rows)
        if changes.gone:
            tables.remove("open_work", changes.gone)
        if changes.classes:
            tables.put("work_classes", changes.classes)
        if changes.standings:
            tables.put("standings", changes.standings)
        _apply_sessions(tables, events)

    def _find(self, job_ids: Sequence[str]) -> list[QueuedWork]:
        with self._database.transaction() as tables:
            return [_from_row(row) for row in tables.query("dispatch_open_work", job_ids=job_ids)]

    # --- offers ---------------------------------------------------------------------------------------------
    async def tick(self, stored_to: int) -> None:
        if self._reset:
            self._reset = False
            self._take_back_all()
        now = self._clock.monotonic()
        self._unsent = 0
        self._take_back_late(now)
        await self._retry(now)
        fleet = self.work.fleet
        turns = [(profile, 1) for profile in fleet.doubtful()]
        turns += [(profile, MAX_REFILL) for profile in fleet.tightest_first()]
        for profile, most in turns:
            if self.work.fair_queue.empty:
                break
            room = min(most, profile.room(now))
            if room and fleet.takes_any(profile, now):
                await self._refill(profile, room, stored_to)
        await self._retry(now, hopeless=True)
        fleet.forget_idle()
        self.work.forget_classes()
        if self.offers is not None:
            if self._unsent:
                self.offers.fails("work queues take no offers")
            else:
                self.offers.works()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._send_commands(now)

    async def _retry(self, now: float, *, hopeless: bool = False) -> None:
        for profile_id, works in self.work.place_retries(now, MAX_REFILL, hopeless=hopeless).items():
            await self._publish(self.work.fleet.profiles[profile_id], works)

    async def _refill(self, profile: Profile, room: int, stored_to: int) -> None:
        fair_queue = self.work.fair_queue
        rooms = Rooms(self.work.fleet, profile, self._clock.monotonic())
        works = fair_queue.take(profile.classes, room, rooms)
        if works:
            self.work.fleet.note_served(profile)
            await self._publish(profile, works)
        room -= len(works)
        # Repeat while heads are short: lanes with few queued jobs in memory get as many offers as others.
        while low := list(fair_queue.low_lanes(profile.classes, stored_to)):
            await asyncio.to_thread(self._load_lanes, low, stored_to)
            # A lane that has more work than the table needs the table to be written soon.
            self.hurried = self.hurried or any(lane.spilled and lane.read_to == stored_to for lane in low)
            more = fair_queue.take(profile.classes, room, rooms)
            if not more:
                return
            await self._publish(profile, more)
            room -= len(more)

    async def _publish(self, profile: Profile, works: list[QueuedWork]) -> None:
        known_work = self.work  # a takeover may replace it while we wait
        bundles = profile.bundles(works)
        now = self._clock.monotonic()
        known_work.offer(profile, works, now)
        missed: set[str] = {work.job_id for work in works}
        try:
            ids = {w.job_id: UUID(w.job_id) for w in works}
            private = await self._private_among({w.service for w in works})
            payloads = await self._payloads.of([ids[w.job_id] for w in works if w.service not in private])
            offers = [
                [
                    self._offer(
                        profile, w, payloads.get(ids[w.job_id]), withholds_payload=w.service in private
                    )
                    for w in bundle
                ]
                for bundle in bundles
            ]
            known = [[o for o in bundle if o is not None] for bundle in offers]
            unsent = await publish_offers(self._queues, profile.id, [bundle for bundle in known if bundle])
            missed = {str(o.job_id) for o in unsent}
        except ConnectionError as error:
            log.warning("offers were not published", profile=profile.id, offers=len(works), error=str(error))
        finally:
            # Also after a cancellation: offers that did not arrive are queued again.
            self._unsent += len(missed)
            unpublished = [work for work in works if work.job_id in missed]
            known_work.take_back([work for work in unpublished if known_work.is_offered(work, profile)])

    async def _private_among(self, services: set[str]) -> set[str]:
        check = self._is_private
        return set() if check is None else {service for service in services if await check(service)}

    def _take_back_late(self, now: float) -> None:
        """Take back offers that nobody claimed in time, at a bounded rate; `place_retries` repeats them."""
        left = MAX_REOFFERS
        for profile in self.work.fleet.tightest_first():
            late: list[QueuedWork] = []
            for offered in profile.offered.values():  # oldest first
                # Without a miner nobody claims them: no need to wait.
                in_time = profile.sessions and now - offered.at < self._offer_timeout
                if in_time or len(late) >= left:
                    break
                late.append(offered.work)
            if late:
                left -= len(late)
                self.work.take_back_late(profile, late, now)

    def _offer(
        self, profile: Profile, work: QueuedWork, stored: StoredPayload | None, *, withholds_payload: bool
    ) -> Offer | None:
        token = self._tokens.token(work.job_id, work.attempt, profile.id)
        return private_offer(work, token) if withholds_payload else offer_of(work, stored, token)

    # --- commands -------------------------------------------------------------------------------------------
    def _send_commands(self, now: float) -> None:
        """Send the commands that are due, without waiting. A lost one is due again."""
        if self._commands is not None and not self._commands.done():
            return
        if not self._listening():
            self._lenient_until = now + LENIENT_SECONDS
        due: list[Command] = [*self.work.judged.due()]
        if now >= self._lenient_until:
            due += self.work.overdue(now)
        if not due:
            return

        async def send() -> None:
            for answer in await self._handle([Intent(command, SYSTEM) for command in due]):
                if isinstance(answer, Refused):
                    log.debug("a command was refused", code=answer.code, detail=answer.detail)
                    if answer.code in (Code.UNAVAILABLE, Code.INTERNAL):
                        self._lenient_until = self._clock.monotonic() + LENIENT_SECONDS

        self._commands = self._hinting.spawn(send())

    def _take_back_all(self) -> None:
        profiles = self.work.fleet.tightest_first()
        self.work.take_back([offered.work for profile in profiles for offered in profile.offered.values()])

    def _note_reset(self) -> None:
        self._reset = True

    def _load_lanes(self, lanes: Sequence[Lane], stored_to: int) -> None:
        with self._database.transaction() as tables:
            for lane in lanes:
                self._load_lane(tables, lane, stored_to)

    def _load_lane(self, tables: Tables, lane: Lane, stored_to: int) -> None:
        job_class, priority, client = lane.key
        rows = tables.query(
            "dispatch_lane_work",
            job_class=job_class,
            priority=priority,
            client=client,
            position=lane.cursor,
            count=self.work.fair_queue.head_length,
        )
        complete = stored_to >= self._acted
        works = [_from_row(row) for row in rows]
        is_outdated = self.work.is_outdated
        self.work.fair_queue.load(lane, works, stored_to, complete=complete, is_outdated=is_outdated)

    # --- hints ----------------------------------------------------------------------------------------------
    def _hint(self, hint: Hint) -> None:
        """Send a hint without waiting: a lost hint costs time, never correctness."""

        async def send() -> None:
            try:
                await self._hints.send(hint.miner_id, hint.body)
            except Exception as error:
                log.debug("a hint was lost", miner=hint.miner_id, error=str(error))

        self._hinting.spawn(send())


def _apply_sessions(tables: Tables, events: Sequence[Recorded]) -> None:
    for recorded in events:
        event = recorded.event
        if not is_miner_event(event):
            continue
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
            case _:
                assert_never(event)


def _from_row(row: Row) -> QueuedWork:
    return QueuedWork(*(row[name] for name in QueuedWork._fields))
