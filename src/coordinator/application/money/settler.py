"""The settler: the jobs that have ended with a hold are settled, many by one command.

Jobs are settled in the order in which they ended, and a settlement says how far it reaches. So a command may
be sent again after a crash or a takeover: what is settled already has no second effect. The hold covers the
payment meanwhile, so a settlement that is late never overspends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, get_args
from uuid import UUID

import structlog

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Clock, Intent, Recorded, Row, Tables
from coordinator.domain.account import MAX_SETTLED, AccountSettle, PaymentsSettled
from coordinator.domain.job import JobSubmitted, ends_job
from coordinator.domain.job.events import FinalEvent
from coordinator.domain.messages import SYSTEM, Event
from coordinator.wire.answers import Answer, Refused

PACE_SECONDS = 0.2
"""The least time between two settlements, unless one is full."""
AGAIN_SECONDS = 1.0
"""The pause after a refused command."""

log = structlog.get_logger("settler")


class Settler(FollowerBase):
    """Table: open_holds."""

    name = "settler"
    tick_seconds = PACE_SECONDS
    linger_seconds = 0.5
    acts_on: frozenset[type[Event]] | None = frozenset(get_args(FinalEvent))

    def __init__(self, handle: Callable[[Sequence[Intent]], Awaitable[list[Answer]]], clock: Clock) -> None:
        self._handle = handle
        self._clock = clock
        self._not_before = clock.monotonic()
        self._due: deque[tuple[UUID, int]] = deque()
        """Ended jobs and the positions of their ends, in their order."""

    # --- the table ------------------------------------------------------------------------------------------
    def take_over(self, tables: Tables) -> None:
        self._due = deque((UUID(row["job_id"]), row["ended"]) for row in tables.query("settler_due"))

    def stand_by(self) -> None:
        self._due = deque()

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        new: dict[str, dict[str, Any]] = {}
        ended: dict[str, Row] = {}
        settled: list[str] = []
        for recorded in events:
            event = recorded.event
            if isinstance(event, JobSubmitted):
                if event.hold:
                    new[recorded.key] = {
                        "job_id": recorded.key,
                        "client": event.client,
                        "amount": event.hold,
                        "held_at": event.at,
                        "ended": 0,
                    }
            elif ends_job(event):
                if recorded.key in new:
                    new[recorded.key]["ended"] = recorded.position
                else:
                    ended[recorded.key] = {"ended": recorded.position}
            elif isinstance(event, PaymentsSettled):
                for job_id in map(str, event.jobs):
                    if new.pop(job_id, None) is None:
                        ended.pop(job_id, None)
                        settled.append(job_id)
        if new:
            tables.put("open_holds", list(new.values()))
        if ended:  # a job without a hold has no row, and stays without one
            tables.change("open_holds", ended)
        if settled:
            tables.remove("open_holds", settled)

    # --- settlements ----------------------------------------------------------------------------------------
    async def act(self, events: Sequence[Recorded]) -> None:
        self._due += [(recorded.stream, recorded.position) for recorded in events if ends_job(recorded.event)]
        if len(self._due) >= MAX_SETTLED:
            await self._settle(MAX_SETTLED)

    async def tick(self, stored_to: int) -> None:
        if self._clock.monotonic() >= self._not_before:
            await self._settle(1)

    async def _settle(self, least: int) -> None:
        """Settle what is due while there are at least so many jobs."""
        while len(self._due) >= least:
            jobs = tuple(self._due[place] for place in range(min(MAX_SETTLED, len(self._due))))
            [answer] = await self._handle([Intent(AccountSettle(jobs=jobs), SYSTEM)])
            if isinstance(answer, Refused):
                log.warning("jobs were not settled", jobs=len(jobs), detail=answer.detail)
                self._not_before = self._clock.monotonic() + AGAIN_SECONDS
                return
            for _ in jobs:
                self._due.popleft()
        self._not_before = self._clock.monotonic() + PACE_SECONDS
