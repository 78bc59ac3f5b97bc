"""One reader of the log for all followers of a process.

What the bus of this process commits is handed on as it is, without reading it back; `previous`, which the log
gives exactly, says whether it joins on. Everything else (other processes' events, and the past) is read.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.ports import EventLog, LogError, LogUnavailable, Recorded

KEEP_EVENTS = 3000  # the recent past that followers read from memory; behind it they read the log
READ_EVENTS = 1000
POLL_SECONDS = 1.0  # behind the notifications, for one that is lost
SETTLE_SECONDS = 0.005  # how long the bus of this process has to hand on what it has committed

log = structlog.get_logger("event_feed")


class EventFeed:
    """Recent events in memory, and the log behind them. Used on the event loop only."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._foreign_callbacks: list[Callable[[Sequence[Recorded]], None]] = []
        self._recent: list[Recorded] = []
        self._positions: list[int] = []
        """Those of `_recent`."""
        self._from = 0
        """What is in memory follows this position …"""
        self._to = 0
        """… and goes up to this one."""
        self._gap = False
        self._unreadable: LogError | None = None
        self._more = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._task = BackgroundTask("event-feed")

    @property
    def head(self) -> int:
        """The last position that this process knows of."""
        return self._to

    def on_foreign(self, callback: Callable[[Sequence[Recorded]], None]) -> None:
        """Call back with events that this process did not append itself."""
        self._foreign_callbacks.append(callback)

    def on_more(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back whenever there is more to read; calling what is returned ends it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def start(self) -> None:
        """Begin at the log's end. Raises LogUnavailable."""
        if not self._task.running:
            self._from = self._to = await asyncio.to_thread(self._log.head)
            self._task.start(self._tail)

    async def stop(self) -> None:
        await self._task.stop()

    def offer(self, previous: int, events: Sequence[Recorded]) -> None:
        """What the bus of this process has just committed, after the log's position `previous`."""
        if previous == self._to:
            self._extend(events)
        elif events[-1].position > self._to:
            self._gap = True  # another process appended in between: the tail reads it all in order

    async def next(self, after: int, limit: int, timeout: float) -> Sequence[Recorded]:
        """Up to `limit` events after position `after`; waits up to `timeout` seconds for the first.

        Raises LogUnavailable, or another LogError for an event that can't be read.
        """
        if after >= self._to and self._unreadable is None:
            more = self._more
            try:
                async with asyncio.timeout(timeout):
                    await more.wait()
            except TimeoutError:
                return ()
        return await self.read(after, limit)

    async def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """As `next`, without a wait."""
        if after >= self._to:
            if self._unreadable is not None:
                raise self._unreadable
            return ()
        if after >= self._from:
            start = bisect_right(self._positions, after)
            return self._recent[start : start + limit]
        return await asyncio.to_thread(self._log.read, after, limit)

    def _extend(self, events: Sequence[Recorded]) -> None:
        self._recent.extend(events)
        self._positions.extend([event.position for event in events])
        self._to = events[-1].position
        if len(self._recent) > 2 * KEEP_EVENTS:  # trim seldom: each trim copies
            dropped = len(self._recent) - KEEP_EVENTS
            self._from = self._positions[dropped - 1]
            del self._recent[:dropped], self._positions[:dropped]
        self._unreadable = None
        self._wake()

    def _wake(self) -> None:
        woken, self._more = self._more, asyncio.Event()
        woken.set()
        for callback in self._callbacks:
            callback()

    async def _tail(self) -> None:
        while True:
            before = self._to
            try:
                moved = await asyncio.to_thread(self._log.wait, before, POLL_SECONDS)
                if not moved:
                    continue
                if not self._gap and self._to == before:
                    await asyncio.sleep(SETTLE_SECONDS)
                if not self._gap and self._to != before:
                    continue  # the bus handed it on
                self._gap = False
                events = await asyncio.to_thread(self._log.read, self._to, READ_EVENTS)
                events = [e for e in events if e.position > self._to]
                if events:
                    for callback in self._foreign_callbacks:
                        callback(events)
                    self._extend(events)
            except LogUnavailable as error:
                log.warning("the log is out of reach", error=str(error))
                await asyncio.sleep(POLL_SECONDS)
            except LogError as error:
                # An event that this version can't read: whoever would go on past it is told, and stops.
                log.error("the log can't be read", after=self._to, error=str(error))
                self._unreadable = error
                self._wake()
                await asyncio.sleep(POLL_SECONDS)
            except Exception:
                log.exception("reading the log failed")
                await asyncio.sleep(POLL_SECONDS)
