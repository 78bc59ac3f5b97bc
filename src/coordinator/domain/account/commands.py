"""Commands about money."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from coordinator.domain.account.events import (
    MAX_SETTLED,
    BusinessId,
    Micros,
    Party,
    PayoutAddress,
    Position,
)
from coordinator.domain.messages import Attempt, Command, MinerId, Name, Role, SessionId, Text


class AccountDeposit(Command, topic="account.deposit", senders={Role.ADMIN}):
    """Credit money that came from the outside. A repeat with the same business id has no second effect."""

    party: Name
    amount: Micros
    """In 10⁻⁶ of the unit."""
    business_id: BusinessId
    reason: Text = ""


class AccountWithdraw(Command, topic="account.withdraw", senders={Role.ADMIN}):
    """Debit money that leaves to the outside. A repeat with the same business id has no second effect."""

    party: Party
    amount: Micros
    """In 10⁻⁶ of the unit."""
    business_id: BusinessId
    reason: Text = ""


class AccountSettle(Command, topic="account.settle", senders={Role.SYSTEM}):
    """Pay completed jobs from their holds, and release the holds of those that ended otherwise.

    All jobs that ended after a position of the log, up to the last one named, in the order of their ends.
    Those that are settled already have no second effect.
    """

    after: Position
    """Refused while jobs before it are not settled: none is passed over."""
    jobs: Annotated[tuple[tuple[UUID, Position], ...], Field(min_length=1, max_length=MAX_SETTLED)]
    """Their ids, and the positions of the events that ended them."""


class AccountBill(Command, topic="account.bill", senders={Role.MINER}):
    """Ask for the pay of the work on a job that was cancelled meanwhile, by a partial statement."""

    job_id: UUID
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    statement: dict[str, Any]
    """See `crypto.statement.PartialStatement`."""


class AccountLapse(Command, topic="account.lapse", senders={Role.SYSTEM}):
    """End the hold of a cancelled job: its miner sent no partial statement in time."""

    job_id: UUID


class AccountDispute(Command, topic="account.dispute", senders={Role.CLIENT, Role.ADMIN}):
    """Freeze the miner's credit for a job, while it is pending."""

    job_id: UUID
    reason: Text = ""


class AccountDismiss(Command, topic="account.dismiss", senders={Role.ADMIN}):
    """End a dispute: the miner keeps its credit."""

    job_id: UUID
    reason: Text = ""


class AccountRefund(Command, topic="account.refund", senders={Role.ADMIN}):
    """Give the client back the whole price of a job, disputed or not; the miner and the fees lose it."""

    job_id: UUID
    reason: Text = ""


class AccountSetPayoutAddress(
    Command, topic="account.set_payout_address", senders={Role.CLIENT, Role.MINER, Role.ADMIN}
):
    """Say where the settlement sink pays the sender. The sink of the coordinator says which are valid."""

    address: PayoutAddress | None
    """None for nowhere."""


AccountCommand = (
    AccountDeposit
    | AccountWithdraw
    | AccountSettle
    | AccountBill
    | AccountLapse
    | AccountDispute
    | AccountDismiss
    | AccountRefund
    | AccountSetPayoutAddress
)
"""Every command about money."""
