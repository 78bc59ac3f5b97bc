"""Events of a settlement batch.

A batch pays parties out through a sink. Its payouts are sent in parts, one after the other: a file is one
part, a chain that takes one transfer in a block has one part for each payout.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from coordinator.domain.account.events import Micros, PayoutAddress, SinkName
from coordinator.domain.messages import Digest, Event, Name, Text

MAX_PAYOUTS = 100
"""Payouts of one batch; the others go into the next one. It bounds the decision, and keeps the events so
small that the leaves of the log have them whole (`crypto.log.leaf`), with the longest addresses, too."""
MAX_BODY = 57_000
"""Characters of base64 of the bytes of one part."""

BatchNumber = Annotated[int, Field(strict=True, ge=1, lt=2**53)]
PartNumber = Annotated[int, Field(strict=True, ge=0, lt=MAX_PAYOUTS)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
Nonce = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
PaymentHash = Annotated[str, StringConstraints(pattern=r"^(0x)?[0-9a-f]{64}$")]
"""The hash by which the sink knows these bytes."""
Body = Annotated[str, StringConstraints(max_length=MAX_BODY, pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
"""The exact bytes in base64."""


class Payout(BaseModel):
    """The money of one party in a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    party: Name
    address: PayoutAddress | Literal[""]
    """Where the sink pays it; empty for a sink that needs no address."""
    amount: Micros


class OfSettlement(Event):
    """The fields of every event of a settlement batch."""

    number: BatchNumber


class SettlementClosed(OfSettlement, topic="settlement.closed.v1"):
    """The money of these parties is in transit, in the same decision."""

    sink: SinkName
    after: Count
    """The position up to which the batch before reaches."""
    until: Count
    """The last position that the batch covers."""
    receipts: Count
    """How many jobs were paid by the events in between."""
    receipts_root: Digest
    """RFC 6962, over the leaves of these payments in the order of the log (`crypto.settlement`)."""
    payouts: Annotated[tuple[Payout, ...], Field(min_length=1, max_length=MAX_PAYOUTS)]
    total: Micros
    previous: Digest
    """The digest of the batch before."""
    digest: Digest
    """Of this batch: see `crypto.settlement`."""


class OfPart(OfSettlement):
    """The fields of every event of one part of a batch."""

    part: PartNumber


class SettlementPrepared(OfPart, topic="settlement.prepared.v1"):
    """The bytes that are going to be sent; nothing else ever is. Appended before anything is sent.

    A part is prepared again only for the same nonce (a higher fee, say): the sink takes one of them at most.
    """

    count: Annotated[int, Field(strict=True, ge=1, le=MAX_PAYOUTS)]
    """How many payouts it pays, from the first unpaid one on."""
    nonce: Nonce | None
    hash: PaymentHash
    body: Body
    payout_root: Annotated[str, StringConstraints(pattern=r"^(0x)?[0-9a-f]{64}$")] | None = None
    """The root over payouts by which the sink lets the payees claim, if it has one."""


class SettlementSubmitted(OfPart, topic="settlement.submitted.v1"):
    """The sink has taken the bytes with this hash."""

    hash: PaymentHash


class SettlementReverted(OfPart, topic="settlement.reverted.v1"):
    """The sink knows the bytes no more (a chain forked back): the same ones are sent again."""


class SettlementConfirmed(OfPart, topic="settlement.confirmed.v1"):
    """The part is paid for good: its money has left."""

    hash: PaymentHash
    confirmations: Count


class SettlementRefused(OfPart, topic="settlement.refused.v1"):
    """The part was not paid, and never will be: its money is back with the payees."""

    reason: Text


SettlementEvent = (
    SettlementClosed
    | SettlementPrepared
    | SettlementSubmitted
    | SettlementReverted
    | SettlementConfirmed
    | SettlementRefused
)
"""Every event of a settlement batch."""


def is_settlement_event(event: Event) -> TypeGuard[SettlementEvent]:
    """Whether this is an event of a settlement batch."""
    return isinstance(event, OfSettlement)
