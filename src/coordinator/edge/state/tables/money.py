"""The reads of the pages about money: named statements, answered in typed rows.

Each read is a transaction of its own in a thread, and raises LogUnavailable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from coordinator.application.ports import Database
from coordinator.domain.messages import Millis
from coordinator.edge.state.threads import in_thread


@dataclass(frozen=True, slots=True)
class DayRow:
    """The money of one party, day (UTC, since 1970) and service, in 10⁻⁶ of the unit."""

    day: int
    service: str
    """Empty where the job is no longer known."""
    spent: int
    earned: int
    paid_jobs: int
    credited_jobs: int


@dataclass(frozen=True, slots=True)
class HoldRow:
    """Money that is set aside for a job."""

    job_id: str
    client: str
    amount: int
    held_at: Millis
    service: str
    state: str


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """The payment of a job."""

    client: str
    miner: str
    amount: int
    available_at: Millis
    contested: Literal["DISPUTED", "DISMISSED", "REFUNDED"] | None
    """What became of it since its settlement."""


@dataclass(frozen=True, slots=True)
class DisputeRow:
    """A payment whose credit is frozen."""

    job_id: str
    miner: str
    credit: int
    posted_at: Millis
    client: str
    service: str | None
    price: int


@dataclass(frozen=True, slots=True)
class TotalsRow:
    """All accounts together."""

    accounts: int
    balance: int
    held: int
    disputed: int


@dataclass(frozen=True, slots=True)
class UnsettledRow:
    """Jobs that have ended and are not settled."""

    jobs: int
    ended_at: Millis | None


class MoneyReads:
    """Reads accounts and entries for pages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_day(self, party: str, since: Millis) -> list[DayRow]:
        """What a party spent and earned, by day and service, in no order."""
        return [DayRow(**row) for row in await self._read("accounts_by_day", party=party, since=since)]

    async def pending_until(self, party: str, now: Millis) -> tuple[Millis | None, Millis | None]:
        """When the first and the last of a party's pending credits become available; None for none."""
        [row] = await self._read("accounts_pending_until", party=party, now=now)
        return row["first_at"], row["last_at"]

    async def is_paid(self, party: str, job_id: str) -> bool:
        """Whether this party paid this job, or was paid for it."""
        return bool(await self._read("accounts_is_paid", job_id=job_id, party=party))

    async def payment(self, job_id: str) -> PaymentRow | None:
        """The payment of a job; None for a job that cost nothing, or is not settled."""
        rows = await self._read("accounts_payment", job_id=job_id)
        if not rows or not (rows[0]["amount"] or rows[0]["billed"]):
            return None
        [row] = rows
        contested = None if row["contested"] == "BILLED" else row["contested"]
        if row["amount"]:
            return PaymentRow(row["client"], row["miner"], row["amount"], row["available_at"], contested)
        return PaymentRow(row["client"], row["billed_miner"], row["billed"], row["billed_until"], contested)

    async def holds(self, party: str, most: int) -> list[HoldRow]:
        """A client's open holds, the newest first."""
        return [HoldRow(**row) for row in await self._read("accounts_hold_lines", party=party, most=most)]

    async def totals(self) -> TotalsRow:
        [row] = await self._read("accounts_totals")
        return TotalsRow(**row)

    async def disputes(self, most: int) -> list[DisputeRow]:
        """The open disputes, the newest payments first."""
        return [DisputeRow(**row) for row in await self._read("accounts_disputes", most=most)]

    async def unsettled(self, before: Millis, most: int) -> UnsettledRow:
        """Of the `most` newest jobs, those that ended before a moment and keep their hold."""
        [row] = await self._read("accounts_unsettled", before=before, most=most)
        return UnsettledRow(**row)

    async def _read(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        def query() -> list[dict[str, Any]]:
            with self._database.transaction() as tables:
                return tables.query(statement, **params)

        return await in_thread(query)
