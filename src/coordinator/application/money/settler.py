"""The settler: the jobs that have ended with a hold are settled, many by one command.

Jobs are settled in the order in which they ended, and a settlement says how far it reaches. So a command may
be sent again after a crash or a takeover: what is settled already has no second effect. The hold covers the
payment meanwhile, so a settlement that is late never overspends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import get_args
from uuid import UUID

import structlog

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Clock, EventLog, Intent, Recorded, Tables
from coordinator.domain.account import MAX_SETTLED, PAYMENTS_STREAM, AccountSettle, PaymentsSettled
from coordinator.domain.job import JobSubmitted, ends_job
from coordinator.domain.job.events import FinalEvent
from coordinator.domain.messages import SYSTEM, Event
from coordinator.wire.answers import Answer, Refused

PACE_SECONDS = 0.2
"""The least time between two settlements, unless one is full."""
AGAIN_SECONDS = 1.0
"""The pause after a refused command."""
READ_EVENTS = 2000

log = structlog.get_logger("settler")


class Settler(FollowerBase):
    """Has no table: the log itself says how far jobs are settled."""

    name = "settler"
    tick_seconds = PACE_SECONDS
    linger_seconds = 0.5
    acts_on: frozenset[type[Event]] | None = frozenset(get_args(FinalEvent))

    def __init__(
        self,
        event_log: EventLog,
        handle: Callable[[Sequence[Intent]], Awaitable[list[Answer]]],
        clock: Clock,
    ) -> None:
        self._log = event_log
        self._handle = handle
        self._clock = clock
        self._not_before = clock.monotonic()
        self._due: deque[tuple[UUID, int]] = deque()
        """Ended jobs and the positions of their ends, in their order."""
        self._unread: tuple[int, int] | None = None
        """The part of the log (after, until) whose ended jobs belong before those in `_due`."""
        self.settling: asyncio.Task[None] | None = None
        """Settles now; None, or done, while there is nothing to settle."""

    def take_over(self, tables: Tables) -> None:
        last = self._log.load([PAYMENTS_STREAM]).get(PAYMENTS_STREAM)
        event = last[-1].event if last else None
        settled = event.until if isinstance(event, PaymentsSettled) else 0
        seen = tables.position(self.name)
        self._due = deque()
        self._unread = (settled, seen) if settled < seen else None

    def stand_by(self) -> None:
        if self.settling is not None:
            self.settling.cancel()
        self._due, self._unread, self.settling = deque(), None, None

    async def act(self, events: Sequence[Recorded]) -> None:
        self._due += [(recorded.stream, recorded.position) for recorded in events if ends_job(recorded.event)]

    async def tick(self, stored_to: int) -> None:
        if self._unread is not None:
            self._due.extendleft(reversed(await asyncio.to_thread(self._read, *self._unread)))
            self._unread = None
        if self.settling is not None:
            if not self.settling.done():
                return
            self.settling.result()
            self.settling = None
        least = 1 if self._clock.monotonic() >= self._not_before else MAX_SETTLED
        if len(self._due) >= least:
            # Beside the follower, which else falls behind the newest events that are in memory.
            self.settling = asyncio.create_task(self._settle(self._due), name="settling")

    def _read(self, after: int, until: int) -> list[tuple[UUID, int]]:
        """The jobs that ended in a part of the log, without those that are known to have no hold."""
        ended: list[tuple[UUID, int]] = []
        free: set[UUID] = set()
        while after < until:
            events = self._log.read(after, READ_EVENTS)
            for recorded in events:
                if isinstance(recorded.event, JobSubmitted) and not recorded.event.hold:
                    free.add(recorded.stream)
                elif ends_job(recorded.event) and recorded.position <= until:
                    if recorded.stream in free:
                        free.remove(recorded.stream)
                    else:
                        ended.append((recorded.stream, recorded.position))
            after = events[-1].position if events else until
        return ended

    async def _settle(self, due: deque[tuple[UUID, int]]) -> None:
        """Settle what is due, and what becomes due meanwhile while it fills a settlement."""
        least = 1
        while len(due) >= least:
            jobs = tuple(due[place] for place in range(min(MAX_SETTLED, len(due))))
            [answer] = await self._handle([Intent(AccountSettle(jobs=jobs), SYSTEM)])
            if isinstance(answer, Refused):
                log.warning("jobs were not settled", jobs=len(jobs), detail=answer.detail)
                self._not_before = self._clock.monotonic() + AGAIN_SECONDS
                return
            for _ in jobs:
                due.popleft()
            least = MAX_SETTLED
        self._not_before = self._clock.monotonic() + PACE_SECONDS
