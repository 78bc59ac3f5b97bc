"""One reader of the log for all followers of a process.

Events that this process's bus commits are passed on without reading them back, if they follow the last known
event (`previous` tells exactly). All others (other processes' events, and the past) are read from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Callable, Sequence, Set

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.ports import EventLog, LogError, LogUnavailable, Recorded
from coordinator.domain.messages import Event

KEEP_EVENTS = 3000  # recent events that followers read from memory; older ones come from the log
READ_EVENTS = 1000
POLL_SECONDS = 1.0  # in case a notification is lost
SETTLE_SECONDS = 0.005  # the time for this process's bus to pass on its committed events
ALONE_SECONDS = 10.0  # without an event of another process: then each own commit need not wake a thread
ALONE_REST_SECONDS = 0.05  # between looks at the log while this process seems to be alone

OnMore = Callable[[Set[type[Event]] | None], None]
"""Called with the types of the new events; None if there is an error to read."""

log = structlog.get_logger("event_feed")


class EventFeed:
    """Recent events in memory, and the log behind them. Used on the event loop only."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._foreign_callbacks: list[Callable[[Sequence[Recorded]], None]] = []
        self._recent: list[Recorded] = []
        self._positions: list[int] = []
        """The positions of `_recent`."""
        self._from = 0
        """`_recent` has all events after this position …"""
        self._to = 0
        """… up to this one."""
        self._gap = asyncio.Event()
        """Set when another process appended before an event of our own."""
        self._unreadable: LogError | None = None
        self._more = asyncio.Event()
        self._callbacks: list[OnMore] = []
        self._event_callbacks: list[Callable[[Sequence[Recorded]], None]] = []
        self._task = BackgroundTask("event-feed")

    @property
    def head(self) -> int:
        """The last position that this process knows."""
        return self._to

    def read_head(self) -> int:
        """The log's last position now, read from it; in a thread. Raises LogUnavailable."""
        return self._log.head()

    def on_foreign(self, callback: Callable[[Sequence[Recorded]], None]) -> None:
        """Call back with events that other processes appended."""
        self._foreign_callbacks.append(callback)

    def on_more(self, callback: OnMore) -> Callable[[], None]:
        """Call back whenever there is more to read; the returned function ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def on_events(self, callback: Callable[[Sequence[Recorded]], None]) -> Callable[[], None]:
        """Call back with all events from now on, in order; the returned function ends that.

        For what takes microseconds and stores nothing: it wakes no task. An error is logged and stops nobody.
        """
        self._event_callbacks.append(callback)
        return lambda: self._event_callbacks.remove(callback)

    async def start(self) -> None:
        """Begin at the head of the log. Raises LogUnavailable."""
        if not self._task.running:
            self._from = self._to = await asyncio.to_thread(self._log.head)
            self._task.start(self._tail)

    async def stop(self) -> None:
        await self._task.stop()

    def note_committed(self, previous: int, events: Sequence[Recorded]) -> None:
        """Take in events that this process's bus just committed, after the log's position `previous`."""
        if previous == self._to:
            self._extend(events)
        elif events[-1].position > self._to:
            self._gap.set()  # `_tail` reads all in order

    def recent(self, after: int) -> Sequence[Recorded]:
        """The events after `after`, without I/O; none if they are no longer in memory."""
        if not self._from <= after < self._to:
            return ()
        return self._recent[bisect_right(self._positions, after) :]

    async def next(self, after: int, limit: int, timeout: float) -> Sequence[Recorded]:
        """Up to `limit` events after position `after`; waits up to `timeout` seconds for the first one.

        Raises LogUnavailable, or another LogError for an unreadable event.
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
        """Like `next`, without a wait."""
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
        if len(self._recent) > 2 * KEEP_EVENTS:  # trim rarely: each trim copies
            dropped = len(self._recent) - KEEP_EVENTS
            self._from = self._positions[dropped - 1]
            del self._recent[:dropped], self._positions[:dropped]
        self._unreadable = None
        for take in self._event_callbacks:
            try:
                take(events)
            except Exception:
                log.exception("events could not be passed on", after=events[0].position)
        self._wake({type(recorded.event) for recorded in events})

    def _wake(self, kinds: Set[type[Event]] | None) -> None:
        woken, self._more = self._more, asyncio.Event()
        woken.set()
        for callback in self._callbacks:
            callback(kinds)

    async def _tail(self) -> None:
        now = asyncio.get_running_loop().time
        foreign_at = now() - ALONE_SECONDS  # until it turns out otherwise
        while True:
            before = self._to
            try:
                moved = await asyncio.to_thread(self._log.wait, before, POLL_SECONDS)
                if not moved:
                    continue
                if not self._gap.is_set() and self._to == before:
                    await asyncio.sleep(SETTLE_SECONDS)
                if not self._gap.is_set() and self._to != before:  # the bus passed the events on
                    if now() - foreign_at > ALONE_SECONDS:
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(ALONE_REST_SECONDS):
                                await self._gap.wait()
                    continue
                self._gap.clear()
                events = await asyncio.to_thread(self._log.read, self._to, READ_EVENTS)
                events = [e for e in events if e.position > self._to]
                if events:
                    foreign_at = now()
                    for callback in self._foreign_callbacks:
                        callback(events)
                    self._extend(events)
            except LogUnavailable as error:
                log.warning("the log is out of reach", error=str(error))
                await asyncio.sleep(POLL_SECONDS)
            except LogError as error:
                # This version can't read the event: followers that reach it get the error and stop.
                log.error("the log can't be read", after=self._to, error=str(error))
                self._unreadable = error
                self._wake(None)
                await asyncio.sleep(POLL_SECONDS)
            except Exception:
                log.exception("reading the log failed")
                await asyncio.sleep(POLL_SECONDS)
