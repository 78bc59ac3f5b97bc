"""The payment of one job, on its page: the price, until when it may be disputed, and its dispute."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from coordinator.domain.account import AccountDispute, PaymentStatus
from coordinator.domain.messages import Millis, Role
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.effects import take_effect
from coordinator.edge.dashboard.form_fields import command_of_form
from coordinator.edge.http.reads.accounts import check_kept


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentLine:
    """A payment that was made."""

    unit: str
    amount: int
    """In 10⁻⁶ of the unit."""
    status: PaymentStatus
    available_at: Millis
    """The end of the time in which it may be disputed."""
    is_pending: bool
    may_dispute: bool
    """Whether this viewer could dispute it now."""


async def payment_of(context: EdgeContext, viewer: Viewer, job_id: UUID) -> PaymentLine | None:
    """The payment of a job that the viewer sees; None if there is none, or not yet."""
    if context.settings.settlement == "off":
        return None
    row = await context.money_reads.payment(str(job_id))
    if row is None:
        return None
    status: PaymentStatus = "PAID"
    if row.contested == "DISPUTED" or row.contested == "REFUNDED":
        status = row.contested
    is_pending = status == "PAID" and time.time_ns() // 1_000_000 < row.available_at
    own = viewer.is_admin or (viewer.role is Role.CLIENT and viewer.name == row.client)
    return PaymentLine(
        unit=context.settings.money_unit,
        amount=row.amount,
        status=status,
        available_at=row.available_at,
        is_pending=is_pending,
        may_dispute=own and is_pending and row.contested is None,
    )


async def dispute(context: EdgeContext, viewer: Viewer, job_id: UUID, reason: str) -> int:
    """Freeze what the miner got for a job; the position of the effect. Raises Refusal."""
    if viewer.client is None:
        viewer.require_admin("dispute payments")
    check_kept(context)
    command = command_of_form(AccountDispute.topic, {"job_id": str(job_id), "reason": reason})
    return (await take_effect(context, viewer, command)).position
