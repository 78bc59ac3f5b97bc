"""The states of accounts, settlements, payments and transfers, and how they follow from events.

    a payment: PAID, by its settlement --dispute--> DISPUTED --dismiss--> PAID for good
                +----------------------refund--> REFUNDED <--refund--+-----+
    a cancelled job, whose hold was kept: --bill--> PAID, --lapse--> RELEASED

The state of an account does not grow with its history: holds are sums, and the sum of the pending credits is
kept for each of a few moments.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Literal, assert_never
from uuid import UUID

from coordinator.domain.account.events import (
    AccountCarried,
    AccountDismissed,
    AccountDisputed,
    AccountEvent,
    AccountHeld,
    AccountPayoutAddressSet,
    AccountPosted,
    AccountReleased,
    PaymentBilled,
    PaymentDismissed,
    PaymentDisputed,
    PaymentEvent,
    PaymentLapsed,
    PaymentRefunded,
    PaymentsSettled,
    TransferMade,
)
from coordinator.domain.decision import evolves
from coordinator.domain.messages import CannotFollow, Millis, stream_id


@dataclass(frozen=True, slots=True)
class Account:
    """The money of one party, in 10⁻⁶ of the unit."""

    party: str
    balance: int = 0
    held: int = 0
    disputed: int = 0
    events: int = 0
    """The number of its events."""
    pending: tuple[tuple[Millis, int], ...] = ()
    """Sums of credits by the moment at which they become available."""
    earned: int = 0
    """The part of the balance that came from payments, and that no settlement batch has paid out yet."""
    payout_sink: str = ""
    payout_address: str = ""
    """Where this sink pays the party; empty for nowhere."""

    def pending_at(self, now: Millis) -> int:
        """The credits that are not available yet."""
        return sum(amount for moment, amount in self.pending if moment > now)

    def available(self, now: Millis) -> int:
        """The money that a job or a withdrawal may take."""
        return self.balance - self.held - self.disputed - self.pending_at(now)

    def payable(self, now: Millis) -> int:
        """The money that a settlement batch pays out: earned, and available. A deposit is not paid out."""
        earned = self.earned - self.disputed - self.pending_at(now)
        return max(0, min(earned, self.available(now)))


AccountState = Account | None


@functools.lru_cache(10_000)
def account_stream(party: str) -> UUID:
    """The id of this party's account."""
    return stream_id("account", party)


@evolves("account")
def evolve(state: AccountState, event: AccountEvent) -> Account:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    if state is None and isinstance(event, AccountCarried):
        before = _whole(event)
    else:
        before = Account(event.party) if state is None else state
    balance, held, disputed, pending = before.balance, before.held, before.disputed, before.pending
    earned, sink, address = before.earned, before.payout_sink, before.payout_address
    match event:
        case AccountHeld():
            held += event.amount
        case AccountReleased():
            held -= event.amount
        case AccountPosted():
            balance += event.amount
            held -= event.released
            disputed -= event.unfrozen
            earned = earned_after(earned, event)
            if event.available_at is not None:
                pending = _with(pending, event.available_at, event.amount)
        case AccountDisputed():
            disputed += event.amount
            pending = _with(pending, event.available_at, -event.amount)
        case AccountDismissed():
            disputed -= event.amount
            pending = _with(pending, event.available_at, event.amount)
        case AccountCarried():
            if _whole(event) != before:
                raise CannotFollow(state, event)
        case AccountPayoutAddressSet():
            sink, address = event.sink, event.address
        case _:
            assert_never(event)
    totals = event.party, event.balance, event.held, event.disputed
    if totals != (before.party, balance, held, disputed):
        raise CannotFollow(state, event)
    later = _later(pending, event.at)
    return Account(before.party, balance, held, disputed, before.events + 1, later, earned, sink, address)


def _whole(event: AccountCarried) -> Account:
    return Account(
        event.party,
        event.balance,
        event.held,
        event.disputed,
        event.number - 1,
        event.pending,
        event.earned,
        event.payout_sink,
        event.payout_address,
    )


def earned_after(earned: int, event: AccountPosted) -> int:
    """The earned part of a balance after an entry. Money that was spent or withdrawn is no longer in it."""
    credit = event.kind in ("payout", "payout_returned")
    credit = credit or (event.kind == "payment" and event.amount > 0)
    credit = credit or (event.kind == "refund" and event.amount < 0)
    return max(0, min(earned + event.amount if credit else earned, event.balance))


def _with(
    pending: tuple[tuple[Millis, int], ...], moment: Millis, amount: int
) -> tuple[tuple[Millis, int], ...]:
    sums = dict(pending)
    total = sums.pop(moment, 0) + amount
    # A credit that is no longer among them is available, and what is taken from it is, too.
    return tuple(sorted({**sums, moment: total}.items())) if total > 0 else tuple(sorted(sums.items()))


def _later(pending: tuple[tuple[Millis, int], ...], now: Millis) -> tuple[tuple[Millis, int], ...]:
    if not pending or pending[0][0] > now:
        return pending
    return tuple(entry for entry in pending if entry[0] > now)


# --- settlements -------------------------------------------------------------------------------------------
PAYMENTS_STREAM = stream_id("payments", "all")
"""The id of the stream of settlements."""


@dataclass(frozen=True, slots=True)
class Settlements:
    """How far jobs are settled."""

    number: int
    """Of the last settlement."""
    until: int
    """The position up to which ended jobs are settled."""


SettlementsState = Settlements | None


@evolves("payments")
def evolve_settlements(state: SettlementsState, event: PaymentsSettled) -> Settlements:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write.

    A reader may begin with any event.
    """
    if state is not None and (event.number, event.after) != (state.number + 1, state.until):
        raise CannotFollow(state, event)
    return Settlements(event.number, event.until)


# --- the payment of a job ----------------------------------------------------------------------------------
PaymentStatus = Literal["PAID", "DISPUTED", "REFUNDED", "RELEASED"]
"""RELEASED: the job cost nothing."""


@dataclass(frozen=True, slots=True)
class Contested:
    """What became of a job's payment since its settlement."""

    job_id: UUID
    status: PaymentStatus
    dismissed: bool = False
    """Whether a dispute was dismissed: there is no second one."""
    billed: PaymentBilled | None = None
    """The payment of work on a cancelled job, which the settlement did not know."""


PaymentState = Contested | None
"""None for a payment as its settlement made it, and for a job that is not settled."""


@functools.lru_cache(10_000)
def payment_stream(job_id: UUID) -> UUID:
    """The id of the stream of this job's payment: what becomes of it after its settlement."""
    return stream_id("payment", str(job_id))


@evolves("payment")
def evolve_payment(state: PaymentState, event: PaymentEvent) -> Contested:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    known = Contested(event.job_id, "PAID") if state is None else state
    match event:
        case PaymentBilled():
            if state is None:
                return replace(known, billed=event)
        case PaymentLapsed():
            if state is None:
                return replace(known, status="RELEASED")
        case PaymentDisputed():
            if known.status == "PAID" and not known.dismissed:
                return replace(known, status="DISPUTED")
        case PaymentDismissed():
            if known.status == "DISPUTED":
                return replace(known, status="PAID", dismissed=True)
        case PaymentRefunded():
            if known.status in ("PAID", "DISPUTED"):
                return replace(known, status="REFUNDED")
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


# --- a transfer --------------------------------------------------------------------------------------------
TransferState = TransferMade | None


def transfer_stream(party: str, business_id: str) -> UUID:
    """The id of this transfer's stream: a repeat finds it for ever, and no account has to remember it."""
    return stream_id("transfer", party, business_id)


@evolves("transfer")
def evolve_transfer(state: TransferState, event: TransferMade) -> TransferState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    if state is not None:
        raise CannotFollow(state, event)
    return event
