"""The accounts of everybody: their sum, open disputes, settlement batches, and what an admin does."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from coordinator.domain.account import (
    FEES,
    OUTSIDE,
    AccountDeposit,
    AccountDismiss,
    AccountRefund,
    AccountWithdraw,
    PaymentDisputed,
    payment_stream,
)
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import NAME, Command
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.money import payouts
from coordinator.edge.dashboard.data.money.payouts import Batches
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.effects import take_effect
from coordinator.edge.dashboard.form_fields import RULES, command_of_form
from coordinator.edge.http.reads.accounts import account_view, check_kept
from coordinator.edge.http.reads.reading import cursor_after, read_cursor
from coordinator.edge.models.parties.accounts import AccountView
from coordinator.edge.state.tables.money import DisputeRow, TotalsRow
from coordinator.edge.state.threads import in_thread
from coordinator.wire.amounts import micros_of

FRESH_SECONDS: Final = 2.0
"""The age of the sums over all accounts."""
MAX_DISPUTES: Final = 50
PAGE_SIZE: Final = 50
PARTY: Final = f"{FEES}|{OUTSIDE}|{NAME}"
_COMMANDS: Final = {"deposit": AccountDeposit, "withdrawal": AccountWithdraw}


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeLine:
    """An open dispute."""

    dispute: DisputeRow
    reason: str
    """The client's own words."""
    disputed_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The money of everybody."""

    unit: str
    totals: TotalsRow
    fees: AccountView
    outside: AccountView
    disputes: tuple[DisputeLine, ...]
    more_disputes: bool
    batches: Batches | None
    """None where nobody is paid out."""
    accounts: tuple[AccountView, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPlan:
    """A deposit or a withdrawal before it is made, and what the account has."""

    kind: Literal["deposit", "withdrawal"]
    account: AccountView
    amount: int
    business_id: str
    reason: str

    @property
    def after(self) -> int:
        """What would be available then."""
        return self.account.available + (self.amount if self.kind == "deposit" else -self.amount)


async def load(context: EdgeContext, viewer: Viewer, cursor: str | None = None) -> Books:
    """A page of the accounts by party, and the facts about all. Raises Refusal."""
    viewer.require_all("see all accounts")
    check_kept(context)
    [after] = read_cursor(cursor, f"({PARTY})") or [""]
    now = time.time_ns() // 1_000_000
    totals, fees, outside, disputes, batches, rows = await asyncio.gather(
        context.shared.get(("money-totals",), FRESH_SECONDS, context.money_reads.totals),
        context.reads.account(FEES, now),
        context.reads.account(OUTSIDE, now),
        context.money_reads.disputes(MAX_DISPUTES + 1),
        payouts.newest(context),
        context.reads.accounts(after, now, PAGE_SIZE + 1),
    )
    shown = rows[:PAGE_SIZE]
    return Books(
        unit=context.settings.money_unit,
        totals=totals,
        fees=account_view(context, FEES, fees),
        outside=account_view(context, OUTSIDE, outside),
        disputes=await _with_reasons(context, disputes[:MAX_DISPUTES]),
        more_disputes=len(disputes) > MAX_DISPUTES,
        batches=batches,
        accounts=tuple(account_view(context, row["party"], row) for row in shown),
        next_cursor=cursor_after(shown[-1]["party"]) if len(rows) > PAGE_SIZE else None,
    )


async def plan(context: EdgeContext, viewer: Viewer, fields: dict[str, str]) -> TransferPlan:
    """What a form's transfer would do. Nothing has happened yet. Raises Refusal for invalid fields."""
    viewer.require_admin("deposit or withdraw money")
    check_kept(context)
    command = _transfer(fields)
    row = await context.reads.account(command.party, time.time_ns() // 1_000_000)
    return TransferPlan(
        kind="deposit" if isinstance(command, AccountDeposit) else "withdrawal",
        account=account_view(context, command.party, row),
        amount=command.amount,
        business_id=command.business_id,
        reason=command.reason,
    )


async def transfer(context: EdgeContext, viewer: Viewer, fields: dict[str, str]) -> str:
    """Make it; the party. A repeat has no second one. Raises Refusal."""
    viewer.require_admin("deposit or withdraw money")
    command = _transfer(fields)
    await _send(context, viewer, command)
    return command.party


async def refund(context: EdgeContext, viewer: Viewer, job_id: UUID, reason: str) -> int:
    """Give the client of a job its money back; the position of the effect. Raises Refusal."""
    viewer.require_admin("refund payments")
    fields = {"job_id": str(job_id), "reason": reason}
    return await _send(context, viewer, command_of_form(AccountRefund.topic, fields))


async def dismiss(context: EdgeContext, viewer: Viewer, job_id: UUID, reason: str) -> int:
    """End a dispute: the miner keeps its credit; the position of the effect. Raises Refusal."""
    viewer.require_admin("dismiss disputes")
    fields = {"job_id": str(job_id), "reason": reason}
    return await _send(context, viewer, command_of_form(AccountDismiss.topic, fields))


def check_party(party: str) -> str:
    """The text, if it can be an account's name. Raises Refusal."""
    if re.fullmatch(PARTY, party) is None:
        raise Refusal(Code.INVALID_PAYLOAD, RULES["party"])
    return party


def _transfer(fields: dict[str, str]) -> AccountDeposit | AccountWithdraw:
    kind = _COMMANDS.get(fields.get("kind", ""))
    if kind is None:
        raise Refusal(Code.INVALID_PAYLOAD, "invalid kind: choose deposit or withdrawal")
    amount = micros_of(fields.get("amount", "").strip())
    if amount is None:
        raise Refusal(Code.INVALID_PAYLOAD, RULES["amount"])
    given: dict[str, Any] = {name: fields.get(name, "").strip() for name in ("party", "business_id")}
    command = command_of_form(kind.topic, {**given, "amount": amount, "reason": fields.get("reason", "")})
    assert isinstance(command, AccountDeposit | AccountWithdraw)
    return command


async def _send(context: EdgeContext, viewer: Viewer, command: Command) -> int:
    return (await take_effect(context, viewer, command)).position


async def _with_reasons(context: EdgeContext, rows: Sequence[DisputeRow]) -> tuple[DisputeLine, ...]:
    """The clients' reasons are in the log alone."""
    if not rows:
        return ()
    streams = {row.job_id: payment_stream(UUID(row.job_id)) for row in rows}
    found = await in_thread(lambda: context.log.load(list(streams.values())))
    lines = []
    for row in rows:
        events = [recorded.event for recorded in found.get(streams[row.job_id], ())]
        told = [event for event in events if isinstance(event, PaymentDisputed)]
        lines.append(
            DisputeLine(
                dispute=row,
                reason=told[-1].reason if told else "",
                disputed_at=told[-1].at if told else None,
            )
        )
    return tuple(lines)
