"""Settlement batches: all of them, one with its payouts, and the payouts of one party."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from coordinator.application.figures.attention import LATE_BATCH_MILLIS
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Millis
from coordinator.domain.settlement import SettlementStatus
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.http.reads.accounts import check_kept

SHOWN: Final = 20
"""The newest batches on a page; `coordinator settlement list` has all."""
LAST: Final = 2**53
_PART: Final = "settlement"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """A settlement batch. Amounts are in 10⁻⁶ of the unit."""

    number: int
    sink: str
    state: SettlementStatus
    payouts: int
    total: int
    in_transit: int
    confirmed: int
    refused: int
    closed_at: Millis
    changed_at: Millis
    is_late: bool
    reason: str
    """Of the last refusal."""
    advice: str
    """What to do, of one that does not go on; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayoutLine:
    """The money of one party in a batch."""

    number: int
    party: str
    sink: str
    address: str
    """Empty for a sink that needs none."""
    amount: int
    state: str
    """`IN_TRANSIT`, `PAID` or `RETURNED`."""
    hash: str | None
    """Of the bytes that paid it."""
    closed_at: Millis
    changed_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The newest batches."""

    lines: tuple[BatchLine, ...]
    more: bool
    fault: str
    """Why this process can't go on with the open one; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPayouts:
    """The newest payouts of one party."""

    lines: tuple[PayoutLine, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPageData:
    """One batch and its payouts, in the order in which they are paid."""

    unit: str
    batch: BatchLine
    payouts: tuple[PayoutLine, ...]


async def newest(context: EdgeContext) -> Batches | None:
    """The newest batches of everybody; None where nobody is paid out."""
    if context.settings.settlement_sink == "none":
        return None
    rows = (await context.settlement_reads.page(None, LAST, SHOWN + 1)).batches
    lines = tuple(_batch(context, row) for row in rows[:SHOWN])
    part = context.metrics().parts.get(_PART)
    is_open = any(line.state != "SETTLED" for line in lines)
    fault = part.reason or "" if is_open and part is not None and not part.ok else ""
    return Batches(lines=lines, more=len(rows) > SHOWN, fault=fault)


async def open_batch(context: EdgeContext) -> tuple[int, Millis]:
    """The number of the batch that is not settled, and when it was closed; zeros for none."""
    if context.settings.settlement_sink == "none":
        return 0, 0
    rows = (await context.settlement_reads.page(None, LAST, 1)).batches
    is_open = bool(rows) and rows[0]["state"] != "SETTLED"
    return (rows[0]["number"], rows[0]["closed_at"]) if is_open else (0, 0)


async def of_party(context: EdgeContext, party: str) -> OwnPayouts | None:
    """The newest payouts of one party; None where nobody is paid out. The caller has checked the viewer."""
    if context.settings.settlement_sink == "none":
        return None
    found = await context.settlement_reads.page(party, LAST, SHOWN + 1)
    lines = tuple(_payout(batch, row) for batch in found.batches for row in found.payouts_of(batch["number"]))
    return OwnPayouts(lines=lines[:SHOWN], more=len(found.batches) > SHOWN)


async def one(context: EdgeContext, viewer: Viewer, number: int) -> BatchPageData:
    """One batch. Raises Refusal."""
    viewer.require_all("see settlement batches")
    check_kept(context)
    found = await context.settlement_reads.one(None, number)
    if not found.batches:
        raise Refusal(Code.BATCH_NOT_FOUND, f"no settlement batch {number}")
    [batch] = found.batches
    return BatchPageData(
        unit=context.settings.money_unit,
        batch=_batch(context, batch),
        payouts=tuple(_payout(batch, row) for row in found.payouts),
    )


def _batch(context: EdgeContext, row: dict[str, Any]) -> BatchLine:
    is_open = row["state"] != "SETTLED"
    is_late = is_open and time.time_ns() // 1_000_000 - row["closed_at"] >= LATE_BATCH_MILLIS
    sink = context.settings.settlement_sink
    return BatchLine(
        number=row["number"],
        sink=row["sink"],
        state=row["state"],
        payouts=row["payouts"],
        total=row["total"],
        in_transit=row["total"] - row["confirmed"] - row["refused"],
        confirmed=row["confirmed"],
        refused=row["refused"],
        closed_at=row["closed_at"],
        changed_at=row["changed_at"],
        is_late=is_late,
        reason=row["reason"],
        advice=advice(row["state"], row["sink"], sink, row["number"], row["part"], is_late=is_late),
    )


def advice(
    state: SettlementStatus, sink: str, current_sink: str, number: int, part: int, *, is_late: bool
) -> str:
    """What to do about a batch that does not go on. `current_sink`: of the settings."""
    by_hand = (
        f"`coordinator settlement confirm {number} --part {part}` if it was paid, "
        f"`coordinator settlement refuse {number} --part {part} --reason …` if it never will be"
    )
    if state == "SETTLED":
        return ""
    if sink != current_sink:
        return (
            f"It was closed for the sink {sink}: set SETTLEMENT_SINK={sink} until it is settled. If that "
            f"sink can't tell any more, find out outside, and say so: {by_hand}."
        )
    if not is_late:
        return ""
    match state:
        case "OPEN":
            return "Nothing is sent: look at the sink's settings, and whether it answers."
        case "PREPARED":
            return (
                "The sink has not taken it; the same bytes are sent again by themselves. Look whether the "
                f"sink answers. If it can't tell any more, find out outside, and say so: {by_hand}."
            )
        case "SUBMITTED":
            return (
                "The sink has taken it, and has not called it final. Look at it outside; if the sink can't "
                f"tell any more, say so: {by_hand}."
            )


def _payout(batch: dict[str, Any], row: dict[str, Any]) -> PayoutLine:
    return PayoutLine(
        number=row["number"],
        party=row["party"],
        sink=row["sink"],
        address=row["address"],
        amount=row["amount"],
        state=row["state"],
        hash=row["hash"],
        closed_at=batch["closed_at"],
        changed_at=row["changed_at"],
    )
