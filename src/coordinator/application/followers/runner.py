"""Followers: readers of the log that act on events and derive tables, each led by one process at a time.

A follower reads in order from its stored position, in batches. It acts on events immediately and stores their
effects a little later, in parallel. Its tables and its position change in one transaction with
`WHERE position = <the one that I read>`, so that a replaced leader fails instead of writing. A follower that
can't apply an event stops and raises an alarm; it never skips the event.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence, Set
from typing import Any, Literal, TypeVar

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.followers.follower import Follower
from coordinator.application.followers.unstored import UnstoredEvents
from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.health import reason_of
from coordinator.application.one_thread import OneThread
from coordinator.application.ports import (
    Database,
    Leadership,
    LogUnavailable,
    PositionMoved,
    Recorded,
)
from coordinator.domain.messages import Event

RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 4.0  # retries double up to this while the follower makes no progress
STANDBY_SECONDS = 3.0  # a follower that nobody has led for so long is a problem
STALL_SECONDS = 10.0  # so is one that has had events before it for so long without moving
MOST_UNREAD = 500  # positions at which a follower reads on with nothing urgent: later they had to be read
# from the log instead of from memory
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
        self._thread: OneThread | None = None
        self.on_failed: Callable[[str, int, Exception], None] = lambda name, position, error: None
        """Told when the follower stopped for good: its name, its position and why."""

    async def start(self) -> None:
        if self._thread is None:
            self._thread = OneThread(self.follower.name)
            self._task.start(self._run)

    async def stop(self) -> None:
        if self._thread is not None:
            await self._task.stop()
            await self._leadership.release(self.follower.name)
            thread, self._thread = self._thread, None
            thread.stop()
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
                self.on_failed(name, self.position, error)
                return

    async def _lead(self) -> None:
        follower, name, picks = self.follower, self.follower.name, self.follower.acts_on is not None
        self._watermarks.leads(name, here=True)
        self._watermarks.moved(name, self.position)
        woken = asyncio.Event()
        unstored = UnstoredEvents(
            follower,
            self.position,
            self._store,
            on_stored=woken.set,
            is_needed=lambda: self._watermarks.is_needed(name),
        )

        def note_more(kinds: Set[type[Event]] | None) -> None:
            if (
                (wanted := follower.acts_on) is None
                or kinds is None
                or not unstored.waiting
                or not wanted.isdisjoint(kinds)
                or self._feed.head - unstored.position > MOST_UNREAD
            ):
                woken.set()

        unsubscribe = self._feed.on_more(note_more)
        self._watermarks.on_hurry(name, woken.set)
        try:
            while self._leadership.holds(name):
                woken.clear()
                unstored.note_stored()
                is_due = unstored.due_in() <= 0
                if is_due and not picks:
                    unstored.begin_to_store()
                # Let the tables catch up before reading more.
                events = () if unstored.full else await self._feed.read(unstored.position, follower.batch)
                if events:
                    await follower.act(events)
                    unstored.add(events)
                if is_due and picks:  # together with the events that did not wake it
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
        # A cancellation must not interrupt a transaction: it is shielded here and joined later.
        return await asyncio.shield(self._thread.call(function, *arguments))


async def _wait(woken: asyncio.Event, seconds: float) -> None:
    """Wait until this is set, for so many seconds at most; it is set afterwards."""
    if seconds <= 0:
        return
    timer = asyncio.get_running_loop().call_later(seconds, woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()
