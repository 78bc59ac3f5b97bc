"""The sink that pays each payee by a transfer on AITBC's chain, one after the other.

The chain takes a transfer only if its nonce is the account's now, so that a block has one at most. It tells
nothing of a transfer that it dropped: one that is in no block, with its nonce unused, is sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from coordinator.application.ports import Final as Paid
from coordinator.application.ports import (
    Gone,
    Pending,
    PollAnswer,
    PreparedPayment,
    SinkBatch,
    SinkHistory,
    SinkRefused,
    SinkUnavailable,
    SubmitAnswer,
    Submitted,
    Unknown,
)
from coordinator.crypto.evm.addresses import BadAddress, read_address
from coordinator.settlement.aitbc.node import SETTING, AitbcNode
from coordinator.settlement.aitbc.transfer import Transfer, TransferSigner, read_transfer
from coordinator.settlement.scale import Scale

CACHED_SECONDS: Final = 60.0
"""A node tells an account's nonce from a cache of 30 s; after this time the nonce is the account's."""


class AitbcTerms(NamedTuple):
    """The settings of the sink."""

    chain_id: str
    scale: Scale
    fee: int
    """For the proposer, in the chain's smallest unit."""
    confirmations: int
    """A block is final with so many, its own included."""


class AitbcSink:
    """Implements SettlementSink."""

    name = "aitbc"
    needs_address = True

    def __init__(
        self,
        node: AitbcNode,
        signer: TransferSigner,
        terms: AitbcTerms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._signer = signer
        self._terms = terms
        self._monotonic = monotonic
        self._behind: tuple[int, float] | None = None
        """A nonce that was used already by our own log, and the time at which the node told it first."""
        self.quantum = terms.scale.quantum

    def address_fault(self, address: str) -> str | None:
        try:
            read_address(address)
        except BadAddress as error:
            return str(error)
        return None

    async def check(self) -> str | None:
        try:
            account = await self._node.account(self._signer.address)
        except SinkUnavailable as error:
            return str(error)
        if account is None:
            return f"AITBC_PRIVATE_KEY: chain {self._terms.chain_id} has no account {self._signer.address}"
        return None

    async def prepare(self, batch: SinkBatch, history: SinkHistory) -> PreparedPayment:
        payout = batch.left[0]
        try:
            amount = self._terms.scale.exact(payout.amount)
        except ValueError as error:
            raise SinkUnavailable(f"AITBC_PER_UNIT: the chain has no such amount: {error}") from None
        account = await self._node.account(self._signer.address)
        if account is None:
            raise SinkUnavailable(f"AITBC_PRIVATE_KEY: the chain has no account {self._signer.address}")
        if account.balance < amount + self._terms.fee:
            raise SinkUnavailable(
                f"AITBC_PRIVATE_KEY: the account has {account.balance}, and needs {amount + self._terms.fee}"
            )
        self._check_nonce(account.nonce, history.nonce)
        transfer = Transfer(
            self._terms.chain_id,
            read_address(payout.address).lower(),
            amount,
            self._terms.fee,
            account.nonce,
            f"{batch.digest[:16]}-{batch.first + 1}",
        )
        body, tx_hash = self._signer.sign(transfer)
        return PreparedPayment(body, tx_hash, account.nonce)

    async def submit(self, payment: PreparedPayment) -> SubmitAnswer:
        # Even a clear refusal proves nothing: an earlier try may be in a block that the node has not seen.
        try:
            sent = await self._node.send(payment.body)
        except SinkUnavailable as error:
            return Unknown(str(error))
        return Submitted() if sent == payment.hash else Unknown(f"{SETTING}: the node names another hash")

    async def poll(self, payment: PreparedPayment) -> PollAnswer:
        try:
            return await self._look_for(payment)
        except SinkUnavailable as error:
            return Unknown(str(error))

    async def replacement(
        self, payments: Sequence[PreparedPayment], pending_seconds: float
    ) -> PreparedPayment | None:
        return None  # blocks are not full, and a fee is no auction there

    async def close(self) -> None:
        await self._node.close()

    def _check_nonce(self, nonce: int, last: int | None) -> None:
        """Raises SinkUnavailable for a nonce that is used, if it may come from the node's cache."""
        if last is None or nonce > last:
            self._behind = None
            return
        if self._behind is None or self._behind[0] != nonce:
            self._behind = (nonce, self._monotonic())
        if self._monotonic() - self._behind[1] < CACHED_SECONDS:
            raise SinkUnavailable(f"{SETTING}: the node does not tell the nonce after the last transfer yet")
        # Told for so long, it is the account's: the last transfer was given up, and never took its nonce.

    async def _look_for(self, payment: PreparedPayment) -> PollAnswer:
        found = await self._node.transaction(payment.hash)
        if found is None:
            account = await self._node.account(self._signer.address)
            if account is None or payment.nonce is None or account.nonce <= payment.nonce:
                return Gone()
            # Looked for again: it may have come into a block between the two questions.
            found = await self._node.transaction(payment.hash)
            if found is None:
                return SinkRefused("another transaction of the account took its nonce")
        transfer = read_transfer(payment.body)
        told = (found.sender.lower(), found.recipient.lower(), found.value, found.nonce)
        if told != (self._signer.address, transfer.to, transfer.amount, transfer.nonce):
            return Unknown(f"{SETTING}: the node tells another transfer under this hash")
        confirmations = await self._node.head() - found.block + 1
        if confirmations < self._terms.confirmations:
            return Pending(max(0, confirmations))
        return Paid(confirmations)
