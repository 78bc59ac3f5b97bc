"""The settler: the jobs that have ended with a hold are settled, many by one command.

Jobs are settled in the order in which they ended, and a settlement says how far it reaches. So a command may
be sent again after a crash or a takeover: what is settled already has no second effect. The hold covers the
payment meanwhile, so a settlement that is late never overspends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import get_args
from uuid import UUID

import structlog

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Clock, EventLog, Intent, Recorded, Tables
from coordinator.domain.account import (
    MAX_SETTLED,
    PAYMENTS_STREAM,
    AccountLapse,
    AccountSettle,
    PaymentBilled,
    PaymentLapsed,
    PaymentsSettled,
)
from coordinator.domain.job import JobSubmitted, ends_job
from coordinator.domain.job.events import FinalEvent
from coordinator.domain.messages import SYSTEM, Event, Millis
from coordinator.wire.answers import Answer, Refused

PROJECTOR = "projector"
PACE_SECONDS = 0.2
"""The least time between two settlements, unless one is full."""
AGAIN_SECONDS = 1.0
"""The pause after a refused command."""
MAX_COMMANDS = 8
"""In one array. They are decided together, each after the one before."""
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
        self._next_at = clock.monotonic()
        """Before it, only full settlements are sent."""
        self._again_at = clock.monotonic()
        """Before it, nothing is sent: a command was refused."""
        self._due: deque[tuple[UUID, int]] = deque()
        """Ended jobs and the positions of their ends, in their order."""
        self._free: set[UUID] = set()
        """Open jobs without a hold, as far as their submits were read."""
        self._kept: dict[UUID, Millis] = {}
        """Cancelled jobs whose holds wait for partial statements, and until when."""
        self._settled = 0
        """The position up to which jobs are settled; `_due` has all that ended since, once all is read."""
        self._unread: tuple[int, int] | None = None
        """The part of the log (after, until) whose ended jobs belong before those in `_due`."""
        self.settling: asyncio.Task[None] | None = None
        """Settles now; None, or done, while there is nothing to settle."""

    def take_over(self, tables: Tables) -> None:
        last = self._log.load([PAYMENTS_STREAM]).get(PAYMENTS_STREAM)
        event = last[-1].event if last else None
        self._settled = event.until if isinstance(event, PaymentsSettled) else 0
        self._kept = {UUID(row["job_id"]): row["kept_until"] for row in tables.query("accounts_kept")}
        # What became of others since is in the part of the log that the read models do not have yet.
        after, seen = min(self._settled, tables.position(PROJECTOR)), tables.position(self.name)
        self._unread = (after, seen) if after < seen else None

    def stand_by(self) -> None:
        if self.settling is not None:
            self.settling.cancel()
        self._due, self._free, self._kept = deque(), set(), {}
        self._unread, self.settling = None, None

    async def act(self, events: Sequence[Recorded]) -> None:
        self._due += self._follow(events)

    async def tick(self, stored_to: int) -> None:
        if self._unread is not None:
            self._due.extendleft(reversed(await asyncio.to_thread(self._read, *self._unread)))
            self._unread = None
        if self.settling is not None:
            if not self.settling.done():
                return
            self.settling.result()
            self.settling = None
        now = self._clock.monotonic()
        least = 1 if now >= self._next_at else MAX_SETTLED
        if len(self._due) >= least and now >= self._again_at:
            # Beside the follower, which else falls behind the newest events that are in memory.
            self.settling = asyncio.create_task(self._settle(self._due, least), name="settling")
            return
        over = [job_id for job_id, until in self._kept.items() if until <= self._clock.now()][:MAX_SETTLED]
        if over and now >= self._again_at:
            self.settling = asyncio.create_task(self._lapse(over), name="settling")

    def _read(self, after: int, until: int) -> list[tuple[UUID, int]]:
        """The jobs that ended in a part of the log."""
        ended: list[tuple[UUID, int]] = []
        while after < until:
            events = self._log.read(after, READ_EVENTS)
            ended += self._follow([recorded for recorded in events if recorded.position <= until])
            after = events[-1].position if events else until
        return [(job_id, position) for job_id, position in ended if position > self._settled]

    def _follow(self, events: Sequence[Recorded]) -> list[tuple[UUID, int]]:
        """The jobs that ended by these events, without those that are known to have no hold."""
        ended: list[tuple[UUID, int]] = []
        for recorded in events:
            event = recorded.event
            if isinstance(event, JobSubmitted):
                if not event.hold:
                    self._free.add(recorded.stream)
            elif ends_job(event):
                if recorded.stream in self._free:
                    self._free.remove(recorded.stream)
                else:
                    ended.append((recorded.stream, recorded.position))
            elif isinstance(event, PaymentsSettled):
                self._kept |= dict.fromkeys([kept.job_id for kept in event.kept], event.kept_until or 0)
            elif isinstance(event, PaymentBilled | PaymentLapsed):
                self._kept.pop(event.job_id, None)
        return ended

    async def _lapse(self, jobs: Sequence[UUID]) -> None:
        """End the holds that waited in vain."""
        answers = await self._handle([Intent(AccountLapse(job_id=job_id), SYSTEM) for job_id in jobs])
        for job_id, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Refused):
                log.warning("a hold did not end", job=str(job_id), detail=answer.detail)
                self._again_at = self._clock.monotonic() + AGAIN_SECONDS
            else:
                self._kept.pop(job_id, None)

    async def _settle(self, due: deque[tuple[UUID, int]], least: int) -> None:
        """Settle what is due, in settlements of at least so many jobs; then what fills one meanwhile."""
        while len(due) >= least:
            jobs = list(islice(due, min(len(due) // least * least, MAX_SETTLED * MAX_COMMANDS)))
            parts = [tuple(jobs[start : start + MAX_SETTLED]) for start in range(0, len(jobs), MAX_SETTLED)]
            ends = [self._settled, *(part[-1][1] for part in parts)]
            commands = [AccountSettle(after=end, jobs=part) for end, part in zip(ends, parts, strict=False)]
            for part, answer in zip(
                parts, await self._handle([Intent(c, SYSTEM) for c in commands]), strict=True
            ):
                if isinstance(answer, Refused):
                    log.warning("jobs were not settled", jobs=len(part), detail=answer.detail)
                    self._again_at = self._clock.monotonic() + AGAIN_SECONDS
                    return
                for _ in part:
                    due.popleft()
                self._settled = answer.body["until"]
            least = MAX_SETTLED
        self._next_at = self._clock.monotonic() + PACE_SECONDS
