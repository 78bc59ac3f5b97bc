"""Events of accounts, of settlements of jobs and their disputes, and of transfers from and to the outside.

Amounts are whole numbers of 10⁻⁶ of the unit. Each event of an account has the account's totals after it, so
that readers need no sum of the events before.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeGuard, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from coordinator.domain.decision import merges
from coordinator.domain.messages import NAME, Attempt, Decimal, Event, Millis, Name, Text

FEES = "@fees"
"""The account of the coordinator's own part. No principal's name begins with @."""
OUTSIDE = "@outside"
"""The other side of deposits and withdrawals; its balance is minus all money inside."""
SETTLEMENT = "@settlement"
"""The account of money in transit: in a settlement batch that a sink has not paid for good."""
MAX_AMOUNT = 10**15
MAX_TOTAL = 2**53 - 1
"""The greatest whole number that every JSON reader keeps exactly; all accounts together hold no more."""

Party = Annotated[str, StringConstraints(pattern=rf"^({FEES}|{OUTSIDE}|{SETTLEMENT}|{NAME})$")]
"""The owner of an account: a principal's name, or an account of the coordinator itself."""
Micros = Annotated[int, Field(strict=True, ge=1, le=MAX_AMOUNT)]
"""An amount of money: a positive whole number of 10⁻⁶ of the unit."""
Total = Annotated[int, Field(strict=True, ge=0, le=MAX_TOTAL)]
Held = Annotated[int, Field(strict=True, ge=1, le=MAX_TOTAL)]
Signed = Annotated[int, Field(strict=True, ge=-MAX_TOTAL, le=MAX_TOTAL)]
BusinessId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
"""The id of a transfer in the books of the sender; a repeat with the same one has no second effect."""
UnitType = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,31}$")]
PostingId = Annotated[str, StringConstraints(max_length=256)]
MAX_SETTLED = 100
"""Jobs that one event settles. It keeps the event so small that a leaf of the log has it whole
(`crypto.log.leaf`), with the longest names, too."""
Count = Annotated[int, Field(strict=True, ge=1, lt=2**53)]
Position = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
CARRIED_EVERY = 512
"""So many events at most are read for the state of an account, however long its history is."""
PostingKind = Literal[
    "deposit", "withdrawal", "payment", "refund", "payout", "payout_confirmed", "payout_returned"
]
SinkName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
"""The kind of a settlement sink, such as `file`."""
PayoutAddress = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$")]
"""Where a sink pays a party; the sink says which ones are valid."""


# --- of an account -----------------------------------------------------------------------------------------
class OfAccount(Event):
    """The fields of every event of an account."""

    party: Party
    balance: Signed
    """All money of the account after this event."""
    held: Total
    """The part of it that is set aside for jobs, after this event."""
    disputed: Total
    """The part of it that is frozen by disputes, after this event."""


class AccountHeld(OfAccount, topic="account.held.v1"):
    """Set aside for jobs: those whose `job.submitted` follows, before any other event of the account but
    `account.carried`.

    The submits of one client that are committed together have one of these (`together`).
    """

    jobs: Count
    amount: Held
    """The sum of their holds."""


class AccountReleased(OfAccount, topic="account.released.v1"):
    """The holds of jobs ended, and nothing was paid from them. The settlement that follows names the jobs."""

    jobs: Count
    amount: Held
    """The sum of their holds."""


class AccountPosted(OfAccount, topic="account.posted.v1"):
    """An entry: one line of a posting. The amounts of all entries of a posting sum to zero.

    A party's payments of one settlement are one entry; `payments.settled`, which follows, has the jobs.
    """

    posting: PostingId
    kind: PostingKind
    amount: Signed
    job_id: UUID | None = None
    """Of a refund."""
    attempt: Attempt | None = None
    """The paid one; with the job's id it gives the id of the receipt."""
    released: Total = 0
    """The holds that ended with this entry."""
    unfrozen: Total = 0
    """The disputed credit that a refund took."""
    available_at: Millis | None = None
    """A credit is pending until then; None if it is available at once."""
    units: Decimal | None = None
    """The number of the paid units in the receipt."""
    unit_type: UnitType | None = None
    """Their name in the receipt."""
    reason: Text = ""


class AccountDisputed(OfAccount, topic="account.disputed.v1"):
    """A pending credit is frozen."""

    job_id: UUID
    amount: Micros
    available_at: Millis


class AccountDismissed(OfAccount, topic="account.dismissed.v1"):
    """A frozen credit is as before its dispute."""

    job_id: UUID
    amount: Micros
    available_at: Millis


class AccountCarried(OfAccount, topic="account.carried.v1"):
    """The whole state of the account after the events before: a reader of the state may begin here.

    Each event of an account whose number is a multiple of `CARRIED_EVERY` is one of these.
    """

    number: Annotated[int, Field(strict=True, ge=1)]
    """Of this event, among those of the account."""
    pending: tuple[tuple[Millis, Micros], ...]
    """Sums of credits by the moment at which they become available, in order."""
    earned: Total
    """The part of the balance that came from payments, and that no settlement batch has paid out yet."""
    payout_sink: SinkName | Literal[""]
    payout_address: PayoutAddress | Literal[""]


class AccountPayoutAddressSet(OfAccount, topic="account.payout_address_set.v1"):
    """The party said where a sink pays it; it replaces the address before."""

    sink: SinkName
    address: PayoutAddress | Literal[""]
    """Empty for none."""


AccountEvent = (
    AccountHeld
    | AccountReleased
    | AccountPosted
    | AccountDisputed
    | AccountDismissed
    | AccountPayoutAddressSet
    | AccountCarried
)
"""Every event of an account."""


# --- of settlements ----------------------------------------------------------------------------------------
class Payment(BaseModel):
    """The payment of one job: the client paid `amount`, the miner got it without `fee`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    job_id: UUID
    client: Name
    miner: Name
    """The principal of the attempt that completed."""
    attempt: Attempt
    """With the job's id it gives the id of the receipt."""
    hold: Micros
    amount: Micros
    fee: Total
    units: Decimal
    """The number of units in the receipt."""
    unit_type: UnitType
    """Their name in the receipt."""


class Unpaid(BaseModel):
    """A job that cost nothing: its hold ended."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    job_id: UUID
    client: Name
    hold: Micros


class Kept(BaseModel):
    """A job that was cancelled at work: its hold waits for the miner's partial statement."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    job_id: UUID
    client: Name
    miner: Name
    """The principal of the attempt that was cancelled."""
    attempt: Attempt
    hold: Micros


class PaymentsSettled(Event, topic="payments.settled.v1"):
    """The holds of all jobs that had ended in a part of the log have ended, and the completed ones are paid.

    The stream of settlements has these events alone; each has its whole state.
    """

    number: Count
    after: Position
    """The position up to which the settlement before reaches."""
    until: Position
    """The position of the last event that ended one of these jobs. No other settlement has jobs that ended in
    between: so each job is settled once."""
    available_at: Millis
    """The end of the time in which the clients may dispute the payments."""
    payments: Annotated[tuple[Payment, ...], Field(max_length=MAX_SETTLED)]
    """In the order in which the jobs ended."""
    unpaid: Annotated[tuple[Unpaid, ...], Field(max_length=MAX_SETTLED)]
    """In the same order."""
    kept: Annotated[tuple[Kept, ...], Field(max_length=MAX_SETTLED)] = ()
    """In the same order. None unless work of cancelled jobs is paid."""
    kept_until: Millis | None = None
    """How long the holds of these wait for statements."""

    @property
    def jobs(self) -> list[UUID]:
        """All jobs that ended in its part of the log, and had a hold."""
        jobs: tuple[Payment | Unpaid | Kept, ...] = (*self.payments, *self.unpaid, *self.kept)
        return [job.job_id for job in jobs]


# --- of the payment of a job -------------------------------------------------------------------------------
class OfPayment(Event):
    """The fields of every event of a job's payment."""

    job_id: UUID
    client: Name
    miner: Name
    amount: Total
    """What the client paid."""
    credit: Total
    """The part of it that the miner got."""
    available_at: Millis
    """The end of the time in which the client may dispute it."""


class PaymentDisputed(OfPayment, topic="payment.disputed.v1"):
    """The client disputes it: the credit is frozen."""

    reason: Text


class PaymentDismissed(OfPayment, topic="payment.dismissed.v1"):
    """The dispute was found to be wrong."""

    reason: Text


class PaymentRefunded(OfPayment, topic="payment.refunded.v1"):
    """The client has its money back."""

    disputed: bool
    """Whether the credit was frozen."""
    reason: Text


class PaymentBilled(OfPayment, topic="payment.billed.v1"):
    """The work on a cancelled job was paid by a partial statement; the rest of the hold returned."""

    attempt: Attempt
    hold: Micros
    fee: Total
    units: Decimal
    unit_type: UnitType
    statement: dict[str, Any]
    """As the miner signed it (`crypto.statement.PartialStatement`)."""


class PaymentLapsed(OfPayment, topic="payment.lapsed.v1"):
    """No work on a cancelled job was paid: there was no statement in time, or the work cost nothing."""

    hold: Micros


PaymentEvent = PaymentBilled | PaymentLapsed | PaymentDisputed | PaymentDismissed | PaymentRefunded
"""Every event of a job's payment after its settlement."""


# --- of a transfer -----------------------------------------------------------------------------------------
class TransferMade(Event, topic="transfer.made.v1"):
    """Money came from the outside or left; the stream of its business id has this one event."""

    party: Party
    business_id: BusinessId
    kind: Literal["deposit", "withdrawal"]
    amount: Micros
    reason: Text


def is_account_event(event: Event) -> TypeGuard[AccountEvent]:
    """Whether this is an event of an account."""
    return isinstance(event, OfAccount)


def is_payment_event(event: Event) -> TypeGuard[PaymentEvent]:
    """Whether this is an event of a job's payment."""
    return isinstance(event, OfPayment)


ACCOUNT_EVENTS = get_args(AccountEvent)


@merges(AccountHeld)
def together(first: AccountHeld, second: AccountHeld) -> AccountHeld:
    """One event for two that would be neighbours in the stream of an account."""
    return second.model_copy(
        update={"jobs": first.jobs + second.jobs, "amount": first.amount + second.amount}
    )
