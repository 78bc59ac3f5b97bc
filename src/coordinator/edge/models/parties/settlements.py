"""Settlement batches and their payouts. Amounts are whole numbers of 10⁻⁶ of the unit."""

from __future__ import annotations

from typing import Literal

from coordinator.edge.models.base import CommandAnswer, Moment, View

BatchStatus = Literal["OPEN", "PREPARED", "SUBMITTED", "SETTLED"]


class PayoutView(View):
    """The money of one party in a batch."""

    party: str
    address: str
    """Empty for a sink that needs no address."""
    amount: int
    state: Literal["IN_TRANSIT", "PAID", "RETURNED"]
    hash: str | None
    """Of the bytes that paid it."""


class SettlementView(View):
    """A batch. For a party that is no admin, the amounts and payouts are its own."""

    number: int
    sink: str
    state: BatchStatus
    """`SETTLED`: each of its parts is paid for good, or refused."""
    closed_at: Moment
    changed_at: Moment
    after: int
    """It covers the events after this position …"""
    until: int
    """… up to this one."""
    receipts: int
    """Paid jobs among them."""
    receipts_root: str
    """RFC 6962."""
    previous: str
    digest: str
    payouts: int
    total: int
    in_transit: int
    confirmed: int
    refused: int
    part: int
    """The part that is being sent."""
    hash: str | None
    """Of the bytes that were prepared or sent last."""
    payout_root: str | None
    """The root by which payees claim, if the sink has one."""
    confirmations: int | None
    reason: str
    """Of the last refusal."""
    position: int


class SettlementPage(View):
    items: list[SettlementView]
    next_cursor: str | None


class SettlementDetail(SettlementView):
    lines: list[PayoutView]
    """In the order in which they are paid."""


class SettlementAnswer(CommandAnswer):
    number: int
    state: BatchStatus
    payouts: int
    total: int
    confirmed: int
    refused: int


class PayoutAddressView(View):
    """Where the settlement sink pays a party."""

    sink: str | None
    """The sink that found the address valid; another sink does not use it."""
    address: str | None


class PayoutAddressAnswer(CommandAnswer):
    sink: str
    address: str | None


class ClaimView(View):
    """The arguments of the contract's `claim(address,uint256,bytes32[])`."""

    account: str
    cumulative: str
    """All that the account was ever granted, in the token's smallest unit; it gets the unclaimed part."""
    proof: list[str]
    data: str
    """The whole call in hex: anybody may send it to the contract, and the account is paid."""


class SettlementProofView(View):
    """What a payee needs to claim by itself."""

    chain_id: int
    contract: str
    batch: int | None
    """The last batch that is paid; None for none."""
    root: str | None
    """The contract's root after this batch; None if it pays the party nothing."""
    claims: list[ClaimView]
    """One for each address at which the party was ever paid."""


class SinkSecretView(View):
    """What the receiver of the sink `webhook` verifies messages with."""

    secret: str
    """For `v1` signatures."""
    public_key: str
    """For `v1a` signatures."""
