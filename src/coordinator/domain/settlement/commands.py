"""Commands about settlement batches. The coordinator sends them; an admin may close, confirm and refuse."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from coordinator.domain.messages import Command, Role, Text
from coordinator.domain.settlement.events import (
    MAX_PAYOUTS,
    BatchNumber,
    Body,
    Count,
    Nonce,
    PartNumber,
    PaymentHash,
)


class SettlementClose(Command, topic="settlement.close", senders={Role.ADMIN, Role.SYSTEM}):
    """Close the next batch: the earned and available money of its payees is in transit from now on."""

    number: BatchNumber | None = None
    """The number that the batch shall have; a repeat has no second effect. None for the next one."""


class SettlementPrepare(Command, topic="settlement.prepare", senders={Role.SYSTEM}):
    """Record the bytes of a part before they are sent."""

    number: BatchNumber
    part: PartNumber
    count: Annotated[int, Field(strict=True, ge=1, le=MAX_PAYOUTS)]
    nonce: Nonce | None = None
    hash: PaymentHash
    body: Body
    payout_root: Annotated[str, Field(pattern=r"^(0x)?[0-9a-f]{64}$")] | None = None


class SettlementSubmit(Command, topic="settlement.submit", senders={Role.SYSTEM}):
    """Record that the sink has taken a part."""

    number: BatchNumber
    part: PartNumber
    hash: PaymentHash


class SettlementRevert(Command, topic="settlement.revert", senders={Role.SYSTEM}):
    """Record that the sink knows a part no more that it had taken."""

    number: BatchNumber
    part: PartNumber


class SettlementConfirm(Command, topic="settlement.confirm", senders={Role.ADMIN, Role.SYSTEM}):
    """Record that a part is paid for good."""

    number: BatchNumber
    part: PartNumber
    hash: PaymentHash | None = None
    """None for the last one that was prepared."""
    confirmations: Count = 0


class SettlementRefuse(Command, topic="settlement.refuse", senders={Role.ADMIN, Role.SYSTEM}):
    """Record that a part was not paid and never will be: its money returns to the payees."""

    number: BatchNumber
    part: PartNumber
    reason: Text


SettlementCommand = (
    SettlementClose
    | SettlementPrepare
    | SettlementSubmit
    | SettlementRevert
    | SettlementConfirm
    | SettlementRefuse
)
"""Every command about a settlement batch."""
