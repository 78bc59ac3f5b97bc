"""The last hour, counted from the event feed: jobs by minute, and how long they waited for a miner.

Held in memory, and rebuilt after a restart from the last SEED_EVENTS positions of the log; `since` says from
when it counts. If very many jobs wait, it follows one in 2, 4, 8 … of them, chosen by their ids, so that
memory is bounded and the quantiles stay fair.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.ports import Clock, LogError, LogUnavailable, Recorded
from coordinator.domain.job import (
    JobCanceled,
    JobCompleted,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
)
from coordinator.domain.messages import Event, Millis

MINUTE: Final = 60_000
MINUTES: Final = 60
DELAY_MINUTES: Final = 5
"""The window of the quantiles of now."""
MAX_FOLLOWED: Final = 20_000
"""Queued jobs whose wait is being measured."""
MAX_DELAYS: Final = 1000
"""Waits of one minute; beyond that a fair sample."""
READ_EVENTS: Final = 2000
SEED_EVENTS: Final = 20_000
REST_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 1.0

log = structlog.get_logger("figures")


class Quantiles(NamedTuple):
    """Seconds. `values`: how many they are of."""

    p50: float
    p90: float
    p99: float
    values: int


class Minute(NamedTuple):
    """One minute of the last hour."""

    begin: Millis
    submitted: int
    completed: int
    failed: int
    """For good; canceled and expired jobs have their own counts."""
    canceled: int
    expired: int
    retried: int
    """Attempts that ended without a result, and whose job was queued again."""
    delay: Quantiles | None
    """From queued to claimed, of the jobs that were claimed in it."""


class WindowFigures(NamedTuple):
    """The figures at one moment."""

    minutes: tuple[Minute, ...]
    """The last hour, oldest first, from `since` on."""
    delay: Quantiles | None
    """Of the claims of the last DELAY_MINUTES."""
    since: Millis
    sampled: int
    """One in so many jobs is followed."""
    position: int


_COUNTED: Final[dict[type[Event], int]] = {
    JobSubmitted: 0,
    JobCompleted: 1,
    JobFailed: 2,
    JobCanceled: 3,
    JobExpired: 4,
    JobRequeued: 5,
}
_QUEUES: Final = frozenset({_COUNTED[JobSubmitted], _COUNTED[JobRequeued]})
"""Of `_COUNTED`: from here on the job waits."""


@dataclass(slots=True)
class _Bucket:
    begin: Millis
    counts: list[int] = field(default_factory=lambda: [0] * len(_COUNTED))
    delays: list[int] = field(default_factory=list)
    """Milliseconds."""
    claims: int = 0


class Window:
    """Counts events. Pure, but for the choice of samples."""

    def __init__(self, now: Callable[[], Millis]) -> None:
        self._now = now
        self._buckets: deque[_Bucket] = deque(maxlen=MINUTES + 1)
        self._queued: dict[UUID, Millis] = {}
        self._one_in = 1
        self._random = random.Random(1)  # noqa: S311 - a fair sample, not a secret
        self.since = now()
        self.position = 0

    def count(self, events: Iterable[Recorded]) -> None:
        """Take in these events, in order."""
        for recorded in events:
            self.position = recorded.position
            event = recorded.event
            kind = _COUNTED.get(type(event))
            if kind is not None:
                self._bucket(event.at).counts[kind] += 1
                if kind in _QUEUES:
                    self._follow(recorded.stream, event.at)
                else:
                    self._queued.pop(recorded.stream, None)
            elif isinstance(event, JobStarted):
                self._claimed(event)

    def figures(self) -> WindowFigures:
        """The figures of now."""
        now = self._now()
        this = now - now % MINUTE
        first = max(this - (MINUTES - 1) * MINUTE, self.since - self.since % MINUTE)
        known = {bucket.begin: bucket for bucket in self._buckets}
        minutes = tuple(_minute(known.get(at) or _Bucket(at)) for at in range(first, this + MINUTE, MINUTE))
        recent = [b for b in self._buckets if b.begin > this - DELAY_MINUTES * MINUTE]
        return WindowFigures(minutes, _together(recent), self.since, self._one_in, self.position)

    def _bucket(self, at: Millis) -> _Bucket:
        begin = at - at % MINUTE
        for bucket in reversed(self._buckets):
            if bucket.begin <= begin:
                if bucket.begin == begin:
                    return bucket
                break
        else:
            if self._buckets:  # older than all: a clock was set back
                return self._buckets[0]
        # A clock of another process may be behind: its events count for the newest minute.
        if self._buckets and begin < self._buckets[-1].begin:
            return self._buckets[-1]
        self._buckets.append(_Bucket(begin))
        return self._buckets[-1]

    def _follow(self, job_id: UUID, at: Millis) -> None:
        if job_id.int % self._one_in:
            return
        self._queued[job_id] = at
        if len(self._queued) > MAX_FOLLOWED:
            self._one_in *= 2
            self._queued = {job: at for job, at in self._queued.items() if not job.int % self._one_in}

    def _claimed(self, event: JobStarted) -> None:
        queued_at = self._queued.pop(event.job_id, None)
        if queued_at is None:
            return
        if self._one_in > 1 and len(self._queued) < MAX_FOLLOWED // 8:
            self._one_in //= 2
        bucket, delay = self._bucket(event.at), max(0, event.at - queued_at)
        bucket.claims += 1
        if len(bucket.delays) < MAX_DELAYS:
            bucket.delays.append(delay)
        elif (place := self._random.randrange(bucket.claims)) < MAX_DELAYS:
            bucket.delays[place] = delay


def _minute(bucket: _Bucket) -> Minute:
    submitted, completed, failed, canceled, expired, retried = bucket.counts
    delay = _quantiles([(d, 1.0) for d in bucket.delays], bucket.claims)
    return Minute(bucket.begin, submitted, completed, failed, canceled, expired, retried, delay)


def _together(buckets: Sequence[_Bucket]) -> Quantiles | None:
    # A delay of a sampled minute stands for several.
    weighed = [(d, b.claims / len(b.delays)) for b in buckets for d in b.delays]
    return _quantiles(weighed, sum(b.claims for b in buckets))


def _quantiles(delays: list[tuple[int, float]], claims: int) -> Quantiles | None:
    """The smallest delay that a share of all of them does not exceed (nearest rank)."""
    if not delays:
        return None
    delays.sort()
    whole = math.fsum(weight for _, weight in delays)
    found, seen = [], 0.0
    shares = iter((0.5, 0.9, 0.99))
    share = next(shares)
    for delay, weight in delays:
        seen += weight
        while seen >= share * whole - 1e-9:
            found.append(delay / 1000)
            share = next(shares, math.inf)
    return Quantiles(found[0], found[1], found[2], claims)


class WindowCounter:
    """A component: feeds the window."""

    def __init__(self, feed: EventFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self.window = Window(clock.now)
        self._task = BackgroundTask("figures")

    def figures(self) -> WindowFigures:
        """The figures of now, at once."""
        return self.window.figures()

    async def start(self) -> None:
        if not self._task.running:
            self.window = Window(self._clock.now)
            self.window.position = max(0, self._feed.head - SEED_EVENTS)
            self._task.start(self._run)

    async def stop(self) -> None:
        await self._task.stop()

    async def _run(self) -> None:
        first = True
        while True:
            try:
                events = await self._feed.next(self.window.position, READ_EVENTS, 1.0)
            except LogUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except LogError as error:
                log.error("figures are stuck", after=self.window.position, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if events and first:
                self.window.since = min(self.window.since, events[0].event.at)
                first = False
            self.window.count(events)
            # Seldom, and many at a time: nobody waits for these figures.
            await asyncio.sleep(0 if len(events) == READ_EVENTS else REST_SECONDS)
