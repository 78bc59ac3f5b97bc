"""Followers: what is derived from the log, each led by one process at a time.

A follower reads in order from its stored position, in batches. It acts on events at once, and stores what
they mean a little later, beside that. Its tables and its position change in one transaction,
`WHERE position = <what I read>`, so that a leader that has been replaced fails instead of writing. A follower
that can't apply an event stops and alarms; it never skips.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeVar

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.ports import (
    Database,
    Leadership,
    LogUnavailable,
    PositionMoved,
    Recorded,
    Tables,
)

RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 4.0  # doubled up to this while nothing gets through
POLL_SECONDS = 0.05  # between looks at the position of a follower that leads elsewhere
Status = Literal["stopped", "standby", "leading", "failed"]
T = TypeVar("T")

log = structlog.get_logger("follower")


class Follower(Protocol):
    """What one follower does with events: it acts on them at once, and stores what they mean in batches."""

    name: str
    batch: int
    """The most events at once."""
    tick_seconds: float
    """`tick` is called at least this often."""
    linger_seconds: float
    """How long events that were acted on wait for more before they are stored: a transaction costs a
    thousand times an event."""

    @property
    def hurried(self) -> bool:
        """Whether what waits to be stored is needed in the tables now."""

    def take_over(self, tables: Tables) -> None:
        """This process leads now: read into memory what is needed. In a transaction, in a thread."""

    async def act(self, events: Sequence[Recorded]) -> None:
        """Act outside, before the position moves: at least once. The events are committed."""

    def gather(self) -> None:
        """All that was acted on is about to be applied. On the event loop."""

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        """Write what the events mean, in the transaction that moves the position. In a thread."""

    async def tick(self, stored_to: int) -> None:
        """Called after events and after a commit, and when nothing came for `tick_seconds`.

        `stored_to`: up to which position the tables have what was acted on.
        """


class FollowerBase:
    """Does nothing at every step; followers override what they need, and have a name."""

    name: str
    batch = 2000
    tick_seconds = 1.0
    linger_seconds = 0.0
    hurried = False

    def take_over(self, tables: Tables) -> None:
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
    """Positions of followers: known at once where they lead in this process, else read from their table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions: dict[str, int] = {}
        self._local: set[str] = set()
        self._moved = asyncio.Event()
        self._polls: dict[str, asyncio.Task[None]] = {}

    def leads(self, follower: str, *, here: bool) -> None:
        """Whether the follower's moves are announced in this process."""
        (self._local.add if here else self._local.discard)(follower)

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
        """One look for all who wait; they start the next one if it was not enough."""
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


class _Acted:
    """Up to where a leader has acted, and what of that the tables do not have: the batch that is being stored
    now, one at a time, and the events behind it, which gather until they are due.
    """

    def __init__(
        self,
        follower: Follower,
        position: int,
        store: Callable[[Sequence[Recorded]], Coroutine[Any, Any, None]],
        on_stored: Callable[[], None],
    ) -> None:
        """`on_stored` is called when a batch is stored, or failed: then it is time for `note_stored`."""
        self.position = position
        self._follower = follower
        self._store = store
        self._on_stored = on_stored
        self._now = asyncio.get_running_loop().time
        self._waiting: list[Recorded] = []
        self._due = 0.0
        self._storing: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether a whole batch waits to be stored."""
        return len(self._waiting) >= self._follower.batch

    def take(self, events: Sequence[Recorded]) -> None:
        """These were acted on. The first that waits says when all are due."""
        if not self._waiting:
            self._due = self._now() + self._follower.linger_seconds
        self._waiting += events
        self.position = events[-1].position

    def due_in(self) -> float:
        """Seconds until what waits is to be stored; for ever, where nothing waits or a batch is under way."""
        if not self._waiting or self._storing:
            return math.inf
        if self.full or self._follower.hurried:
            return 0.0
        return max(0.0, self._due - self._now())

    def begin_to_store(self) -> None:
        """Store what waits, beside what is acted on meanwhile."""
        self._follower.gather()
        self._storing = asyncio.create_task(self._store(self._waiting))
        self._storing.add_done_callback(lambda _: self._on_stored())
        self._waiting = []

    def note_stored(self) -> None:
        """If a batch is stored, the next one may be. Raises what it failed with, and then keeps the batch."""
        if self._storing and self._storing.done():
            self._storing.result()
            self._storing = None

    async def store_all(self) -> None:
        """Store everything, in order. Raises what the first batch that could not be stored failed with."""
        if self._storing:
            await self._storing
        if self._waiting:
            self._follower.gather()
            await self._store(self._waiting)

    async def join(self) -> None:
        """Wait for what is being stored, however it ends."""
        if self._storing:
            await asyncio.gather(self._storing, return_exceptions=True)


class FollowerRunner:
    """The life of one follower in this process: standby, leading, standby …"""

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
        self.position = 0
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
        """Why this follower does not follow."""
        return [f"{self.follower.name} stopped: {self.error}"] if self.status == "failed" else []

    async def _run(self) -> None:
        name = self.follower.name
        delay, reached = RETRY_SECONDS, -1
        while True:
            self.status = "standby"
            self._watermarks.leads(name, here=False)
            if self.position > reached:
                delay, reached = RETRY_SECONDS, self.position
            try:
                await self._leadership.acquire(name)
                self.position = await self._in_thread(self._take_over)
                self.status, self.error = "leading", None
                log.info("leading", follower=name, position=self.position)
                await self._lead()
                log.warning("no longer leading", follower=name)
            except PositionMoved:
                log.warning("another process leads", follower=name)
                await self._leadership.release(name)
                await asyncio.sleep(delay)
            except (LogUnavailable, ConnectionError) as error:
                # Out of reach is no reason to stop: read the position again and go on from there.
                log.warning("interrupted", follower=name, error=str(error), again_in=delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_RETRY_SECONDS)
            except Exception as error:
                self.status, self.error = "failed", f"{type(error).__name__}: {error}"
                log.exception("stopped at an event that it can't apply", follower=name, after=self.position)
                await self._leadership.release(name)
                return

    async def _lead(self) -> None:
        follower, name = self.follower, self.follower.name
        self._watermarks.leads(name, here=True)
        self._watermarks.moved(name, self.position)
        woken = asyncio.Event()
        acted = _Acted(follower, self.position, self._store, on_stored=woken.set)
        unsubscribe = self._feed.on_more(woken.set)
        try:
            while self._leadership.holds(name):
                woken.clear()
                acted.note_stored()
                if acted.due_in() <= 0:
                    acted.begin_to_store()
                # Where the tables are behind, let them come along.
                events = () if acted.full else await self._feed.read(acted.position, follower.batch)
                if events:
                    await follower.act(events)
                    acted.take(events)
                await follower.tick(self.position)
                if not events:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(follower.tick_seconds, acted.due_in())):
                            await woken.wait()
        except (asyncio.CancelledError, ConnectionError):
            # What was acted on and is not stored would be acted on again. Not past what could not be stored.
            with contextlib.suppress(PositionMoved, LogUnavailable, ConnectionError):
                await acted.store_all()
            raise
        finally:
            unsubscribe()
            await acted.join()

    async def _store(self, events: Sequence[Recorded]) -> None:
        await self._in_thread(self._apply, events)
        self.position = events[-1].position
        self._watermarks.moved(self.follower.name, self.position)

    def _take_over(self) -> int:
        with self._database.transaction() as tables:
            # The position first: should a leader before us still commit, our first move fails and we start
            # over; the other way round we would go on behind events that we have not read.
            position = tables.position(self.follower.name)
            self.follower.take_over(tables)
            return position

    def _apply(self, events: Sequence[Recorded]) -> None:
        with self._database.transaction() as tables:
            self.follower.apply(tables, events)
            tables.move(self.follower.name, self.position, events[-1].position)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        assert self._thread is not None
        loop = asyncio.get_running_loop()
        # A transaction under way is finished also when this task is cancelled: shielded, then joined.
        return await asyncio.shield(loop.run_in_executor(self._thread, function, *arguments))
