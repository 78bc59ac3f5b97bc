"""The facts for the decisions about money."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from coordinator.domain.account.events import Kept, Payment
from coordinator.domain.account.state import AccountState
from coordinator.domain.messages import Millis, Principal


class Terms(NamedTuple):
    """The terms of payments from now on; a payment keeps those of its settlement."""

    fee_bps: int = 0
    """The coordinator's part of each payment, in 1/10,000."""
    window_millis: Millis = 0
    """The time in which the client may dispute a payment."""
    partial_millis: Millis = 0
    """How long the hold of a job that was cancelled at work waits for its miner's partial statement; 0: such
    work is not paid."""


class EndedJob(NamedTuple):
    """A final job, as far as its payment is concerned. A final job never changes."""

    job_id: UUID
    position: int
    """Of the event that ended it."""
    client: str
    hold: int
    """The amount that was set aside for it; 0 for nothing."""
    miner: str | None = None
    """The principal of the attempt that completed; None if the job ended otherwise."""
    price: int = 0
    """The price in the receipt."""
    attempt: int = 1
    """The attempt that completed."""
    units: str | None = None
    """The units in the receipt."""
    unit_type: str | None = None
    """Their name."""
    stopped: str | None = None
    """The principal of the attempt at work, if the job was cancelled and is paid by time."""


class TransferContext(NamedTuple):
    """The facts for a deposit or a withdrawal. Not stale: the decision appends to both accounts."""

    now: Millis
    principal: Principal
    account: AccountState
    outside: AccountState


class SettleContext(NamedTuple):
    """The facts for a settlement. The accounts are not stale: the decision appends to them."""

    now: Millis
    principal: Principal
    jobs: tuple[EndedJob, ...]
    """In the order of the log."""
    accounts: dict[str, AccountState]
    """Of all parties of these jobs, and of the fees."""
    terms: Terms


class SettledJob(NamedTuple):
    """The facts of a job's settlement, which never change."""

    payment: Payment | None
    """None if the job cost nothing, or nothing yet."""
    client: str
    available_at: Millis
    """The end of the time in which the client may dispute it."""
    kept: Kept | None = None
    """If its hold waits for a partial statement."""
    kept_until: Millis = 0


class StoppedWork(NamedTuple):
    """The work on a cancelled job, by the log and the miner's verified statement. It never changes."""

    units: str
    """No more than the coordinator saw in time, nor than the miner signed."""
    unit_type: str
    price: int


class BillContext(NamedTuple):
    """The facts for the pay of work on a cancelled job. The accounts are not stale: the decision appends to
    them."""

    now: Millis
    principal: Principal
    settled: SettledJob | None
    work: StoppedWork | None
    """None unless the statement is that of the attempt that was cancelled; and for a lapse."""
    client: AccountState
    miner: AccountState
    fees: AccountState
    terms: Terms


class PaymentContext(NamedTuple):
    """The facts for a dispute and its end. The accounts are not stale: the decision appends to them."""

    now: Millis
    principal: Principal
    settled: SettledJob | None
    """None for a job that is not settled, or unknown."""
    client: AccountState
    miner: AccountState
    fees: AccountState


class AddressContext(NamedTuple):
    """The facts for a payout address."""

    now: Millis
    principal: Principal
    sink: str
    """The coordinator's sink, which found the address valid. If another one is set up later, this address is
    not one of its own, and is not used."""
