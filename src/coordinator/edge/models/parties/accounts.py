"""Accounts, their entries and statements, and quotes. Amounts are whole numbers of 10⁻⁶ of the unit."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from coordinator.domain.account.events import PostingKind
from coordinator.edge.models.base import CommandAnswer, Moment, View


class AccountView(View):
    """The money of one party: `balance` is the sum of the other four."""

    party: str
    unit: str
    """The name of the unit; amounts are whole numbers of its millionth."""
    balance: int
    available: int
    """What a job or a withdrawal may take."""
    held: int
    """Set aside for jobs that have not ended."""
    pending: int
    """Credits that may be disputed still."""
    disputed: int
    """Credits that are frozen by disputes."""
    position: int


class AccountPage(View):
    items: list[AccountView]
    next_cursor: str | None


class EntryView(View):
    """One line of a posting. The amounts of all lines of a posting sum to zero."""

    position: int
    at: Moment
    posting: str
    kind: PostingKind
    amount: int
    balance: int
    """After this entry."""
    job_id: UUID | None
    receipt_id: str | None
    available_at: Moment | None
    """The end of the time in which a credit may be disputed; null if it is available at once."""
    disputed: bool
    reason: str
    units: str | None
    """The number of units in the receipt."""
    unit_type: str | None
    """Their name in the receipt, such as `gpu_seconds` or `images`."""


class EntryPage(View):
    items: list[EntryView]
    next_cursor: str | None


class ServiceAmount(View):
    """The payments for one service, less their refunds."""

    service: str
    """Empty for jobs that are no longer known."""
    amount: int
    jobs: int


class AccountServices(View):
    """What an account spent and earned on which service."""

    party: str
    unit: str
    since: Moment = Field(alias="from")
    """The begin of the first day, of UTC."""
    spent: list[ServiceAmount]
    """The greatest first."""
    earned: list[ServiceAmount]


class HoldView(View):
    """Money that is set aside for a job."""

    job_id: UUID
    amount: int
    held_at: Moment


class Statement(View):
    """All entries of an account in a period, signed by the coordinator.

    `signature` is over the line `coordinator statement 1`, a line feed, and the canonical JSON of the other
    members.
    """

    format: Literal["coordinator statement 1"] = "coordinator statement 1"
    party: str
    unit: str
    since: Moment = Field(alias="from")
    until: Moment = Field(alias="to")
    """The first moment that is not in it."""
    opening: int
    lines: list[EntryView]
    closing: int
    """`opening` and all lines."""
    holds: list[HoldView]
    """Of jobs that had not ended when the statement was made."""
    position: int
    """The log's position up to which it is complete."""
    signature: dict[str, str]


class TransferAnswer(CommandAnswer):
    party: str
    kind: Literal["deposit", "withdrawal"]
    amount: int
    business_id: str


class PaymentAnswer(CommandAnswer):
    job_id: UUID
    payment: Literal["PAID", "DISPUTED", "REFUNDED", "RELEASED"]
    """RELEASED: it cost nothing."""


class PriceView(View):
    """The miners that ask one price."""

    unit_price: str
    miners: int
    """Miners online that could run the job."""
    at_most: int
    """The most that the job would cost at them."""


class QuoteView(View):
    """What a job would cost at most."""

    service: str
    unit: str
    """The name of the unit of money."""
    unit_type: str
    """The name of what is billed, as in the receipt: `gpu_seconds`, `images`, …"""
    max_units: str | None
    """The most of them that are billed; null if the payload does not tell, and the job needs a budget."""
    list_price: str
    """Of one of them."""
    price_limit: str
    """The most that one of them may cost: `max_price`, or the list price."""
    at_most: int
    """What a submit sets aside where accounts are kept; a miner is paid this at most."""
    miners: list[PriceView]
    """By price, the lowest first."""
