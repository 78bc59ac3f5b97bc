"""The settler: every job that has ended with a hold is settled, by one command for each.

The command is idempotent by the job, so that it may be sent again after a crash or a takeover. The hold
covers the payment meanwhile, so a settlement that is late never overspends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import structlog

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Clock, Database, Intent, Recorded, Row, Tables
from coordinator.domain.account import AccountHeld, AccountSettle, is_payment_event
from coordinator.domain.job import ends_job
from coordinator.domain.messages import SYSTEM, Event
from coordinator.wire.answers import Answer, Refused

MAX_DUE = 400
"""Commands in one array."""
AGAIN_SECONDS = 5.0
"""A command whose effect is not in the table after so long is sent again."""

log = structlog.get_logger("settler")


class Settler(FollowerBase):
    """Table: open_holds."""

    name = "settler"
    tick_seconds = 0.5
    linger_seconds = 0.2
    acts_on: frozenset[type[Event]] | None = frozenset()

    def __init__(
        self,
        database: Database,
        handle: Callable[[Sequence[Intent]], Awaitable[list[Answer]]],
        clock: Clock,
    ) -> None:
        self._database = database
        self._handle = handle
        self._clock = clock
        self._last_tick = clock.monotonic()
        self._sent: dict[str, float] = {}
        """By job: when its command was sent; the row leaves the table a moment later."""

    # --- the table ------------------------------------------------------------------------------------------
    def take_over(self, tables: Tables) -> None:
        self._sent = {}

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        new: dict[str, dict[str, Any]] = {}
        ended: dict[str, Row] = {}
        settled: list[str] = []
        for recorded in events:
            event = recorded.event
            if isinstance(event, AccountHeld):
                new[str(event.job_id)] = {
                    "job_id": str(event.job_id),
                    "client": event.party,
                    "amount": event.amount,
                    "held_at": event.at,
                    "ended": 0,
                }
            elif ends_job(event):
                if recorded.key in new:
                    new[recorded.key]["ended"] = 1
                else:
                    ended[recorded.key] = {"ended": 1}
            elif is_payment_event(event):
                job_id = str(event.job_id)
                if new.pop(job_id, None) is None:
                    ended.pop(job_id, None)
                    settled.append(job_id)
        if new:
            tables.put("open_holds", list(new.values()))
        if ended:  # a job without a hold has no row, and stays without one
            tables.change("open_holds", ended)
        if settled:
            tables.remove("open_holds", settled)

    # --- due commands ---------------------------------------------------------------------------------------
    async def tick(self, stored_to: int) -> None:
        now = self._clock.monotonic()
        if now - self._last_tick < self.tick_seconds:
            return  # between two batches of a busy log
        self._last_tick = now
        self._sent = {job: at for job, at in self._sent.items() if now - at < AGAIN_SECONDS}
        while due := await asyncio.to_thread(self._due):
            commands = [AccountSettle(job_id=UUID(job)) for job in due]
            self._sent.update(dict.fromkeys(due, now))
            answers = await self._handle([Intent(command, SYSTEM) for command in commands])
            for command, answer in zip(commands, answers, strict=True):
                if isinstance(answer, Refused):
                    log.warning("a job was not settled", job=str(command.job_id), detail=answer.detail)

    def _due(self) -> list[str]:
        with self._database.transaction() as tables:
            rows = tables.query("settler_due", count=MAX_DUE + len(self._sent))
        return [row["job_id"] for row in rows if row["job_id"] not in self._sent][:MAX_DUE]
