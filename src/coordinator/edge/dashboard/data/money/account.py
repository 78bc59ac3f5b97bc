"""One party's money: what it has, spent and earned on which service and day, holds, payouts and entries."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from coordinator.domain.account import FEES
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Millis, Role
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.money import payouts
from coordinator.edge.dashboard.data.money.payouts import OwnPayouts
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.http.reads.accounts import (
    DAY_MILLIS,
    account_view,
    amounts,
    check_kept,
    lines_after,
    lines_before,
    statement_of,
)
from coordinator.edge.models.parties.accounts import AccountView, ServiceAmount, Statement
from coordinator.edge.state.tables.money import DayRow, HoldRow

PERIODS: Final = (7, 30, 90)
"""Days of a chart."""
FRESH_SECONDS: Final = 2.0
"""The age of a chart: it reads all payments of its period."""
SHOWN_SERIES: Final = 2
"""Services with a line of their own; the others share one."""
MAX_HOLDS: Final = 50
PAGE_SIZE: Final = 50
OTHERS: Final = "all others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What a party spent, or earned, in a period: payments, less the refunds of the period."""

    total: int
    services: tuple[ServiceAmount, ...]
    """The greatest first."""
    series: tuple[str, ...]
    """The names of the lines of the chart."""
    days: tuple[tuple[Any, ...], ...]
    """By day of UTC: its begin, and an amount in the unit for each line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryLine:
    """One line of a posting."""

    at: Millis
    kind: str
    amount: int
    balance: int
    job_id: str | None
    service: str | None
    state: str
    """Of a credit `pending`, `disputed` or `available`; of any payment `refunded`; else empty."""
    available_at: Millis | None
    business_id: str
    """Of a transfer; or the settlement batch of a payout."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPageData:
    """An account, as its page shows it."""

    account: AccountView
    pending_until: tuple[Millis | None, Millis | None]
    """When the first and the last of the pending credits become available."""
    days: int
    spent: Flow
    earned: Flow
    holds: tuple[HoldRow, ...]
    more_holds: bool
    payouts: OwnPayouts | None
    """None where nobody is paid out."""
    entries: tuple[EntryLine, ...]
    next_cursor: str | None


async def load(
    context: EdgeContext, viewer: Viewer, party: str, days: int, cursor: str | None = None
) -> AccountPageData:
    """An account, and its last `days`. Raises Refusal, also where no accounts are kept."""
    _check(context, viewer, party)
    if days not in PERIODS:
        raise Refusal(Code.INVALID_PAYLOAD, f"invalid days: choose one of {', '.join(map(str, PERIODS))}")
    before = lines_before(cursor)
    now = time.time_ns() // 1_000_000
    today = now // DAY_MILLIS
    first = today - days + 1

    async def by_day() -> list[DayRow]:
        return await context.money_reads.by_day(party, first * DAY_MILLIS)

    row, until, flows, holds, paid_out, entries = await asyncio.gather(
        context.reads.account(party, now),
        context.money_reads.pending_until(party, now),
        context.shared.get(("money-by-day", party, first), FRESH_SECONDS, by_day),
        context.money_reads.holds(party, MAX_HOLDS + 1),
        payouts.of_party(context, party),
        context.reads.lines(party, before, PAGE_SIZE + 1),
    )
    shown = entries[:PAGE_SIZE]
    return AccountPageData(
        account=account_view(context, party, row),
        pending_until=until,
        days=days,
        spent=_flow([(r.day, r.service, r.spent, r.paid_jobs) for r in flows], first, today),
        earned=_flow([(r.day, r.service, r.earned, r.credited_jobs) for r in flows], first, today),
        holds=tuple(holds[:MAX_HOLDS]),
        more_holds=len(holds) > MAX_HOLDS,
        payouts=paid_out,
        entries=tuple(_entry(line, now) for line in shown),
        next_cursor=lines_after(shown[-1]) if len(entries) > PAGE_SIZE else None,
    )


async def statement(
    context: EdgeContext, viewer: Viewer, party: str, since: Millis, until: Millis, position: int
) -> Statement:
    """The signed statement of a period that is over now at the latest. Raises Refusal."""
    _check(context, viewer, party)
    return await statement_of(context, party, since, until, position)


async def receipt(context: EdgeContext, viewer: Viewer, job_id: UUID) -> dict[str, Any]:
    """The receipt of a job that this viewer was paid for. Raises Refusal, the same one as for no such job."""
    check_kept(context)
    paid = viewer.sees_all or await context.money_reads.is_paid(viewer.name, str(job_id))
    found = await context.receipts.of(job_id) if paid else None
    if found is None:
        raise Refusal(Code.JOB_NOT_FOUND, "no such job among your payments")
    return found


def _check(context: EdgeContext, viewer: Viewer, party: str) -> None:
    check_kept(context)
    if viewer.name != party or viewer.role not in (Role.CLIENT, Role.MINER):
        viewer.require_all("see another account")


def _flow(rows: Sequence[tuple[int, str, int, int]], first: int, today: int) -> Flow:
    """`rows`: day, service, amount and jobs."""
    by_day: dict[tuple[int, str], int] = defaultdict(int)
    for day, service, amount, _ in rows:
        by_day[day, service] += amount
    services = amounts((service, amount, jobs) for _, service, amount, jobs in rows)
    named = [line.service for line in services[:SHOWN_SERIES]]
    rest = [line.service for line in services[SHOWN_SERIES:]]
    days = []
    for day in range(first, today + 1):
        values = [by_day.get((day, service), 0) / 1e6 for service in named]
        if rest:
            values.append(sum(by_day.get((day, service), 0) for service in rest) / 1e6)
        days.append((day * DAY_MILLIS, *values))
    return Flow(
        total=sum(line.amount for line in services),
        services=tuple(services),
        series=tuple([service or "unknown" for service in named] + ([OTHERS] if rest else [])),
        days=tuple(days) if services else (),
    )


def _entry(row: dict[str, Any], now: Millis) -> EntryLine:
    return EntryLine(
        at=row["posted_at"],
        kind=row["kind"],
        amount=row["amount"],
        balance=row["balance"],
        job_id=row["job_id"],
        service=row["service"],
        state=_state(row, now),
        available_at=row["available_at"],
        business_id=_business_id(row["posting"]) if row["job_id"] is None else "",
        reason=row["reason"],
    )


def _business_id(posting: str) -> str:
    """Of `deposit/alice/invoice-17`, whose id may have a slash; of `settlement/3` or `settlement/3/0`."""
    kind, of, *rest = posting.split("/", 2)
    return f"batch {of}" if kind == "settlement" else rest[0]


def _state(row: dict[str, Any], now: Millis) -> str:
    if row["kind"] != "payment":
        return ""
    if row["contested"] == "REFUNDED":
        return "refunded"
    if row["amount"] < 0:
        return ""
    if row["contested"] == "DISPUTED" and row["party"] != FEES:
        return "disputed"
    return "pending" if row["available_at"] is not None and row["available_at"] > now else "available"
