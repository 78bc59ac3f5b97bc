"""The settlement of one job: a table says where it is in the log, and the log what it is."""

from __future__ import annotations

import asyncio
from uuid import UUID

from coordinator.application.ports import Database, EventLog
from coordinator.domain.account import PaymentsSettled, SettledJob


class Payments:
    """Looks up settlements."""

    def __init__(self, event_log: EventLog, database: Database) -> None:
        self._log = event_log
        self._database = database

    async def of(self, job_id: UUID) -> SettledJob | None:
        """The job's settlement; None if there is none, or the table does not have it yet.

        Raises LogUnavailable.
        """
        return await asyncio.to_thread(self._of, job_id)

    def _of(self, job_id: UUID) -> SettledJob | None:
        with self._database.transaction() as tables:
            rows = tables.query("accounts_payment", job_id=str(job_id))
        if not rows:
            return None
        events = self._log.read(rows[0]["position"] - 1, 1)
        event = events[0].event if events else None
        if not isinstance(event, PaymentsSettled):
            return None  # the table differs from the log, which decides
        for payment in event.payments:
            if payment.job_id == job_id:
                return SettledJob(payment, payment.client, event.available_at)
        for unpaid in event.unpaid:
            if unpaid.job_id == job_id:
                return SettledJob(None, unpaid.client, event.available_at)
        for kept in event.kept:
            if kept.job_id == job_id:
                until = event.kept_until or 0
                return SettledJob(None, kept.client, event.available_at, kept, until)
        return None
