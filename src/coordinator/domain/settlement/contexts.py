"""The facts for the decisions about settlement batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from coordinator.domain.account import AccountState
from coordinator.domain.messages import Millis, Principal
from coordinator.domain.settlement.state import SettlementState


class BatchPlan(NamedTuple):
    """What the next batch covers, by the tables."""

    number: int
    after: int
    """The position up to which the batch before reaches; 0 before the first."""
    until: int
    """The position up to which the tables were complete."""
    receipts: int
    receipts_root: str
    parties: tuple[str, ...]
    """Those that may have something to be paid. The decision looks at their accounts."""


class SinkTerms(NamedTuple):
    """The sink, as far as a batch is concerned."""

    name: str
    needs_address: bool
    fault_of: Callable[[str], str | None]
    """Why the sink can't pay an address; None for a good one."""
    minimum: int
    """The least amount of a payout."""
    quantum: int = 1
    """The sink pays multiples of it only; the rest stays in the account."""


class CloseContext(NamedTuple):
    """The facts for the close of a batch.

    The accounts are not stale: the decision appends to those that it pays. `plan` may be stale:
    `before` shows it, or the new batch's own stream, which is not empty then. `before` is settled for good,
    or the close is refused.
    """

    now: Millis
    principal: Principal
    plan: BatchPlan
    before: SettlementState
    """The batch before this one."""
    accounts: Mapping[str, AccountState]
    """Of the plan's parties, and of `@settlement`."""
    sink: SinkTerms


class PartContext(NamedTuple):
    """The facts for the other commands. Not stale: the decision appends to the accounts that it moves."""

    now: Millis
    principal: Principal
    accounts: Mapping[str, AccountState]
    """Of the payees of the current part, of `@settlement` and `@outside`, where they are needed."""
