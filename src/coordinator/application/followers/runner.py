"""Followers: readers of the log that act on events and derive tables, each led by one process at a time.

A follower reads in order from its stored position, in batches. It acts on events immediately and stores their
effects a little later, in parallel. Its tables and its position change in one transaction with
`WHERE position = <the one that I read>`, so that a replaced leader fails instead of writing. A follower that
can't apply an event stops and raises an alarm; it never skips the event.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeVar

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.health import reason_of
from coordinator.application.ports import (
    Database,
    Leadership,
    LogUnavailable,
    PositionMoved,
    Recorded,
    Tables,
)

RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 4.0  # retries double up to this while the follower makes no progress
STANDBY_SECONDS = 3.0  # a follower that nobody has led for so long is a problem
STALL_SECONDS = 10.0  # so is one that has had events before it for so long without moving
POLL_SECONDS = 0.05  # between queries for the position of a follower that another process leads
Status = Literal["stopped", "standby", "leading", "failed"]
T = TypeVar("T")

log = structlog.get_logger("follower")


class BeyondTheLog(Exception):
    """The tables are ahead of the log: they are not of the same backup."""

    def __init__(self, position: int) -> None:
        super().__init__(
            f"its tables are at position {position}, beyond the end of the log; log and tables are of "
            "different backups, so restore both from one"
        )


class Follower(Protocol):
    """The work of one follower: it acts on events immediately and stores their effects in batches."""

    name: str
    batch: int
    """The most events in one batch."""
    tick_seconds: float
    """The longest time between calls of `tick`."""
    linger_seconds: float
    """How long events wait for more of them before they are stored, because a transaction costs a thousand
    times as much as an event."""
    rest_seconds: float
    """The least time between two transactions, unless somebody waits for the position."""
    passive: bool
    """Whether it only stores: `act` and `tick` do nothing, so later events need not wake it before they are
    stored."""

    @property
    def hurried(self) -> bool:
        """Whether the waiting events are needed in the tables now."""

    def take_over(self, tables: Tables) -> None:
        """This process leads now: load the state in memory. In a transaction, in a thread."""

    async def act(self, events: Sequence[Recorded]) -> None:
        """Act on committed events, before the position moves, so at least once."""

    def stand_by(self) -> None:
        """This process does not lead, from now on until the next `take_over`. On the event loop."""

    def gather(self) -> None:
        """All events acted on are about to be applied. On the event loop."""

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        """Write the effects of the events, in the transaction that moves the position. In a thread."""

    async def tick(self, stored_to: int) -> None:
        """Called after events, after a commit, and after `tick_seconds` without either.

        `stored_to`: the position up to which the tables are complete.
        """


class FollowerBase:
    """Does nothing at every step; followers set a name and override the steps that they need."""

    name: str
    batch = 2000
    tick_seconds = 1.0
    linger_seconds = 0.0
    rest_seconds = 0.0
    passive = False
    hurried = False

    def take_over(self, tables: Tables) -> None:
        return None

    def stand_by(self) -> None:
        return None

    async def act(self, events: Sequence[Recorded]) -> None:
        return None

    def gather(self) -> None:
        return None

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        return None

    async def tick(self, stored_to: int) -> None:
        return None


class LocalWatermarks:
    """Positions of followers: announced by the leaders in this process, else read from the table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions: dict[str, int] = {}
        self._local: set[str] = set()
        self._moved = asyncio.Event()
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._needed: dict[str, int] = {}
        self._hurries: dict[str, Callable[[], None]] = {}

    def leads(self, follower: str, *, here: bool) -> None:
        """Note whether this process leads the follower and so announces its position."""
        (self._local.add if here else self._local.discard)(follower)

    def on_hurry(self, follower: str, callback: Callable[[], None]) -> None:
        """Call back when somebody begins to wait for this follower's position."""
        self._hurries[follower] = callback

    def hurry(self, follower: str, position: int) -> None:
        """See `ports.Watermarks`."""
        if position > max(self.of(follower), self._needed.get(follower, 0)):
            self._needed[follower] = position
            if follower in self._hurries:
                self._hurries[follower]()

    def is_needed(self, follower: str) -> bool:
        """Whether somebody waits for a position that the follower has not reached."""
        return self._needed.get(follower, 0) > self.of(follower)

    def moved(self, follower: str, position: int) -> None:
        self._positions[follower] = max(position, self._positions.get(follower, 0))
        woken, self._moved = self._moved, asyncio.Event()
        woken.set()

    def of(self, follower: str) -> int:
        return self._positions.get(follower, 0)

    async def reached(self, follower: str, position: int, timeout: float) -> bool:
        """See `ports.Watermarks`."""
        try:
            async with asyncio.timeout(timeout):
                while self.of(follower) < position:
                    if follower not in self._local and follower not in self._polls:
                        self._polls[follower] = asyncio.create_task(self._poll(follower))
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def _poll(self, follower: str) -> None:
        """One query for all waiting callers; they start the next one if the position is still too low."""
        try:
            await asyncio.sleep(POLL_SECONDS)
            stored = await asyncio.to_thread(self._stored, follower)
        except LogUnavailable:
            stored = 0
        finally:
            del self._polls[follower]
        self.moved(follower, stored)

    def _stored(self, follower: str) -> int:
        with self._database.transaction() as tables:
            return tables.position(follower)


class _UnstoredEvents:
    """The events that a leader has acted on and the tables do not have yet: the one batch that is being
    stored now, and the later events, which gather until they are due.
    """

    def __init__(
        self,
        follower: Follower,
        position: int,
        store: Callable[[Sequence[Recorded]], Coroutine[Any, Any, None]],
        on_stored: Callable[[], None],
        is_needed: Callable[[], bool],
    ) -> None:
        """`on_stored` is called after a batch was stored or failed; call `note_stored` then.

        `is_needed`: whether somebody waits for the tables.
        """
        self.position = position
        """The position of the last event acted on."""
        self._follower = follower
        self._store = store
        self._on_stored = on_stored
        self._now = asyncio.get_running_loop().time
        self._waiting: list[Recorded] = []
        self._due = 0.0
        self._is_needed = is_needed
        self._rested = 0.0
        """When the next transaction may begin."""
        self._storing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether any events wait to be stored."""
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether a whole batch waits."""
        return len(self._waiting) >= self._follower.batch

    def add(self, events: Sequence[Recorded]) -> None:
        """Add events that were acted on. The first waiting event sets the due time of all."""
        if not self._waiting:
            self._due = max(self._now() + self._follower.linger_seconds, self._rested)
        self._waiting += events
        self.position = events[-1].position

    def due_in(self) -> float:
        """Seconds until the waiting events are due; infinity if none wait or a batch is being stored."""
        if not self._waiting or self._storing:
            return math.inf
        if self.full or self._follower.hurried or self._is_needed():
            return 0.0
        return max(0.0, self._due - self._now())

    def begin_to_store(self) -> None:
        """Begin to store the waiting events, in parallel to new ones."""
        self._follower.gather()
        self._rested = self._now() + self._follower.rest_seconds
        self._storing = asyncio.create_task(self._store(self._waiting))
        self._storing.add_done_callback(lambda _: self._on_stored())
        self._waiting = []

    def note_stored(self) -> None:
        """Allow the next batch once the current one is stored. Raises its error, and then keeps the batch."""
        if self._storing and self._storing.done():
            self._storing.result()
            self._storing = None

    async def store_all(self) -> None:
        """Store all events, in order. Raises the error of the first batch that fails."""
        if self._storing:
            await self._storing
        if self._waiting:
            self._follower.gather()
            await self._store(self._waiting)

    async def join(self) -> None:
        """Wait for the end of the current batch, stored or failed."""
        if self._storing:
            await asyncio.gather(self._storing, return_exceptions=True)


class FollowerRunner:
    """Runs one follower in this process: standby, leading, standby …"""

    def __init__(
        self,
        follower: Follower,
        feed: EventFeed,
        database: Database,
        leadership: Leadership,
        watermarks: LocalWatermarks,
    ) -> None:
        self.follower = follower
        self.status: Status = "stopped"
        self.error: str | None = None
        """Why it stopped (`failed`)."""
        self._interruption: str | None = None
        """Why it was interrupted, if it has made no progress since."""
        self.position = 0
        self._changed_at = time.monotonic()
        """When the status or the position last changed, or the follower was up to date."""
        self._feed = feed
        self._database = database
        self._leadership = leadership
        self._watermarks = watermarks
        self._task = BackgroundTask(f"follower-{follower.name}")
        self._thread: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=self.follower.name)
            self._task.start(self._run)

    async def stop(self) -> None:
        if self._thread is not None:
            await self._task.stop()
            await self._leadership.release(self.follower.name)
            thread, self._thread = self._thread, None
            thread.shutdown(wait=True)
        if self.status != "failed":
            self.status = "stopped"

    def problems(self) -> list[str]:
        """Why the follower does no work, if it does none and no other process leads it; without I/O."""
        name, unchanged = self.follower.name, time.monotonic() - self._changed_at
        if self.status == "failed":
            return [f"{name} stopped: {self.error}"]
        if self.status != "leading" and self._leadership.led_elsewhere(name):
            return []
        if self._interruption is not None:
            return [f"{name} is interrupted: {self._interruption}"]
        if self.status != "leading":
            return [] if unchanged < STANDBY_SECONDS else [f"{name} is led by no process"]
        behind = self._feed.head - self.position
        if behind > 0 and unchanged > STALL_SECONDS:
            return [f"{name} has stood still for {unchanged:.0f} s, {behind} positions behind the log"]
        return []

    def stalled_seconds(self) -> float:
        """For how long it has stood still behind the log, while it leads; 0 if it moves or is up to date."""
        behind = self.status == "leading" and self._feed.head > self.position
        return time.monotonic() - self._changed_at if behind else 0.0

    async def _run(self) -> None:
        name = self.follower.name
        delay, reached = RETRY_SECONDS, -1
        while True:
            if self.status != "standby":
                self.status, self._changed_at = "standby", time.monotonic()
                self.follower.stand_by()
            self._watermarks.leads(name, here=False)
            if self.position > reached:
                delay, reached = RETRY_SECONDS, self.position
            try:
                await self._leadership.acquire(name)
                self.position = await self._in_thread(self._take_over)
                self.status, self.error, self._changed_at = "leading", None, time.monotonic()
                log.info("leading", follower=name, position=self.position)
                await self._lead()
                log.warning("no longer leading", follower=name)
            except PositionMoved:
                log.warning("another process leads", follower=name)
                self._interruption = None
                await self._leadership.release(name)
                await asyncio.sleep(delay)
            except (LogUnavailable, ConnectionError) as error:
                # A server out of reach is no reason to stop: read the position again and go on from there.
                log.warning("interrupted", follower=name, error=str(error), again_in=delay)
                self._interruption = reason_of(error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_RETRY_SECONDS)
            except Exception as error:
                self.status, self.error = "failed", f"{type(error).__name__}: {error}"
                self.follower.stand_by()
                log.exception("stopped at an event that it can't apply", follower=name, after=self.position)
                await self._leadership.release(name)
                return

    async def _lead(self) -> None:
        follower, name = self.follower, self.follower.name
        self._watermarks.leads(name, here=True)
        self._watermarks.moved(name, self.position)
        woken = asyncio.Event()
        unstored = _UnstoredEvents(
            follower,
            self.position,
            self._store,
            on_stored=woken.set,
            is_needed=lambda: self._watermarks.is_needed(name),
        )

        def note_more() -> None:
            if not (follower.passive and unstored.waiting):
                woken.set()

        unsubscribe = self._feed.on_more(note_more)
        self._watermarks.on_hurry(name, woken.set)
        try:
            while self._leadership.holds(name):
                woken.clear()
                unstored.note_stored()
                is_due = unstored.due_in() <= 0
                if is_due and not follower.passive:
                    unstored.begin_to_store()
                # Let the tables catch up before reading more.
                events = () if unstored.full else await self._feed.read(unstored.position, follower.batch)
                if events:
                    await follower.act(events)
                    unstored.add(events)
                if is_due and follower.passive:  # together with the events that did not wake it
                    unstored.begin_to_store()
                await follower.tick(self.position)
                if events or self.position >= self._feed.head:
                    self._interruption = None
                if not events or unstored.position >= self._feed.head:
                    if self.position >= self._feed.head:
                        self._changed_at = time.monotonic()
                    await _wait(woken, min(follower.tick_seconds, unstored.due_in()))
        except (asyncio.CancelledError, ConnectionError):
            # Unstored events would be acted on again. A failed batch ends this: no later one may pass it.
            with contextlib.suppress(PositionMoved, LogUnavailable, ConnectionError):
                await unstored.store_all()
            raise
        finally:
            unsubscribe()
            await unstored.join()

    async def _store(self, events: Sequence[Recorded]) -> None:
        await self._in_thread(self._apply, events)
        self.position, self._changed_at = events[-1].position, time.monotonic()
        self._watermarks.moved(self.follower.name, self.position)

    def _take_over(self) -> int:
        with self._database.transaction() as tables:
            # The position first: if the former leader still commits, our first move fails and we start over.
            # In the other order we would go on after events that we have not read.
            position = tables.position(self.follower.name)
            # Read after the position, so it can't be lower than that unless the log is an older copy.
            if position > 0 and position > self._feed.read_head():
                raise BeyondTheLog(position)
            self.follower.take_over(tables)
            return position

    def _apply(self, events: Sequence[Recorded]) -> None:
        with self._database.transaction() as tables:
            self.follower.apply(tables, events)
            tables.move(self.follower.name, self.position, events[-1].position)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        assert self._thread is not None
        loop = asyncio.get_running_loop()
        # A cancellation must not interrupt a transaction: it is shielded here and joined later.
        return await asyncio.shield(loop.run_in_executor(self._thread, function, *arguments))


async def _wait(woken: asyncio.Event, seconds: float) -> None:
    """Wait until this is set, for so many seconds at most; it is set afterwards."""
    if seconds <= 0:
        return
    timer = asyncio.get_running_loop().call_later(seconds, woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()
