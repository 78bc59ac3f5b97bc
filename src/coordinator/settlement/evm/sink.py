"""The sink that publishes one root for each batch; the payees claim from the contract by themselves.

Only the chain refuses: a transaction that failed below enough blocks, or another one that took its nonce
there. Anything else that a node says is a reason to ask again: it may lag, or forget what it took. A
published root counts, whatever transaction published it: it binds all sums, and names the root before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from coordinator.application.ports import (
    Final as Paid,
)
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
from coordinator.crypto.evm.payout_tree import PayoutTree
from coordinator.domain.settlement import Payout
from coordinator.settlement.evm.contract import Distributor, set_root
from coordinator.settlement.evm.rpc import SETTING, EvmNode, NodeRefused
from coordinator.settlement.evm.signer import EvmSigner, Fees, read_transaction
from coordinator.settlement.scale import Scale

MAX_GAS: Final = 500_000
"""Publishing a root takes some 100,000, whatever it holds; a node that asks for more is not believed."""
_BUMP: Final = (9, 8)
"""A replacement pays an eighth more, as nodes ask for."""
_KNOWN: Final = ("already known", "known transaction", "already imported")


class EvmTerms(NamedTuple):
    """The settings of the sink."""

    chain_id: int
    distributor: str
    """The contract's address, with its checksum."""
    scale: Scale
    confirmations: int
    """A block is final with so many, its own included."""
    bump_seconds: float
    """A transaction that waits for so long is sent with a higher fee."""
    tip: int
    """For the block's proposer, in wei of each gas."""
    most: int
    """The most for each gas, in wei."""


class EvmSink:
    """Implements SettlementSink."""

    name = "evm"
    needs_address = True

    def __init__(self, node: EvmNode, signer: EvmSigner, terms: EvmTerms) -> None:
        self._node = node
        self._signer = signer
        self._terms = terms
        self._contract = Distributor(node, terms.distributor)
        self._last: tuple[dict[str, int], bytes] | None = None
        """Sums, and their root."""
        self.quantum = terms.scale.quantum

    def address_fault(self, address: str) -> str | None:
        return address_fault(address)

    async def check(self) -> str | None:
        terms = self._terms
        try:
            chain_id = await self._node.chain_id()
            if chain_id != terms.chain_id:
                return f"EVM_CHAIN_ID: {terms.chain_id}, but the node is of chain {chain_id}"
            if not await self._node.code(terms.distributor):
                return (
                    "EVM_DISTRIBUTOR: there is no contract; deploy one: coordinator settlement deploy TOKEN"
                )
            publisher = await self._contract.publisher()
            if publisher != self._signer.address:
                return f"EVM_PRIVATE_KEY: it is of {self._signer.address}; the publisher is {publisher}"
            decimals = await self._contract.decimals()
            if 10**decimals != terms.scale.per_unit:
                return f"EVM_TOKEN_DECIMALS: the token has {decimals}"
        except (SinkUnavailable, NodeRefused) as error:
            return str(error)
        return None

    async def prepare(self, batch: SinkBatch, history: SinkHistory) -> PreparedPayment:
        # 1. The sums before, which the contract has to have, and those after.
        try:
            old, new, total = await asyncio.to_thread(self._roots, history.paid, batch.left)
        except ValueError as error:
            raise SinkUnavailable(f"EVM_TOKEN_DECIMALS: the token has no such amount: {error}") from None
        try:
            fault = await self.check()
            if fault is None and await self._contract.root() != old:
                fault = (
                    "EVM_DISTRIBUTOR: the contract's root is not the one of the batches in this log; is it "
                    "the log's own contract, and EVM_TOKEN_DECIMALS what it always was?"
                )
            if fault is not None:
                raise SinkUnavailable(fault)
            # 2. Its transaction.
            data = set_root(old, new, total, batch.number)
            nonce = await self._next_nonce()
            gas = await self._gas(data)
            fees = await self._fees()
        except NodeRefused as error:
            raise SinkUnavailable(f"{SETTING}: {error}") from None
        signed = self._signer.sign(
            chain_id=self._terms.chain_id,
            nonce=nonce,
            to=self._terms.distributor,
            data=data,
            gas=gas,
            fees=fees,
        )
        return PreparedPayment(signed.raw, signed.hash, nonce, len(batch.left), new.hex())

    async def submit(self, payment: PreparedPayment) -> SubmitAnswer:
        try:
            sent = await self._node.send(payment.body)
        except NodeRefused as error:
            return Submitted() if error.says(*_KNOWN) else Unknown(f"{SETTING}: {error}")
        except SinkUnavailable as error:
            return Unknown(str(error))
        return Submitted() if sent == payment.hash else Unknown(f"{SETTING}: the node names another hash")

    async def poll(self, payment: PreparedPayment) -> PollAnswer:
        try:
            return await self._look_for(payment)
        except NodeRefused as error:
            return Unknown(f"{SETTING}: {error}")
        except SinkUnavailable as error:
            return Unknown(str(error))

    async def replacement(
        self, payments: Sequence[PreparedPayment], pending_seconds: float
    ) -> PreparedPayment | None:
        if pending_seconds < self._terms.bump_seconds or not payments:
            return None
        last = payments[-1]
        sent = read_transaction(last.body)
        try:
            base = await self._node.base_fee()
        except NodeRefused as error:
            raise SinkUnavailable(f"{SETTING}: {error}") from None
        tip = _more(sent.fees.tip)
        most = max(_more(sent.fees.most), 2 * base + tip)
        if most > self._terms.most:
            return None
        signed = self._signer.sign(
            chain_id=self._terms.chain_id,
            nonce=sent.nonce,
            to=self._terms.distributor,
            data=sent.data,
            gas=sent.gas,
            fees=Fees(most, tip),
        )
        return last._replace(body=signed.raw, hash=signed.hash)

    async def close(self) -> None:
        await self._node.close()

    def _roots(self, paid: Mapping[str, int], payouts: Sequence[Payout]) -> tuple[bytes, bytes, int]:
        """The roots before and after these payouts, and the sum of all sums after them. Raises ValueError."""
        chain_id, distributor, scale = self._terms[:3]
        before = cumulative_sums(paid, scale)
        after = cumulative_sums(paid, scale, [(payout.address, payout.amount) for payout in payouts])
        # The root before is mostly the one that this process made last.
        if self._last is None or self._last[0] != before:
            self._last = (before, PayoutTree(chain_id, distributor, before).root)
        old = self._last[1]
        self._last = (after, PayoutTree(chain_id, distributor, after).root)
        return old, self._last[1], sum(after.values())

    # --- the transaction -----------------------------------------------------------------------------------
    async def _next_nonce(self) -> int:
        # A node that is behind would have shown an older root. And a payment that an admin refused by hand,
        # without a trace on the chain, is excluded for good by one with its nonce.
        nonce = await self._node.nonce(self._signer.address)
        if await self._node.nonce(self._signer.address, "pending") > nonce:
            raise SinkUnavailable("EVM_PRIVATE_KEY: another transaction of this key waits for a block")
        return nonce

    async def _gas(self, data: bytes) -> int:
        gas = await self._node.estimate_gas(self._signer.address, self._terms.distributor, data)
        if gas > MAX_GAS:
            raise SinkUnavailable(f"{SETTING}: the node asks for {gas} gas, more than a root can need")
        # The estimate is for the newest block; the transaction may be in another one.
        return min(gas * 5 // 4, MAX_GAS)

    async def _fees(self) -> Fees:
        base, tip = await self._node.base_fee(), self._terms.tip
        if base + tip > self._terms.most:
            raise SinkUnavailable("EVM_MAX_FEE_GWEI: gas costs more at the moment")
        return Fees(min(2 * base + tip, self._terms.most), tip)

    # --- its trace on the chain ----------------------------------------------------------------------------
    async def _look_for(self, payment: PreparedPayment) -> PollAnswer:
        assert payment.nonce is not None
        assert payment.payout_root is not None
        node, needed = self._node, self._terms.confirmations
        head = await node.head()
        deep = head - needed + 1
        # 1. In a block.
        receipt = await node.receipt(payment.hash)
        if receipt is not None:
            if receipt.block > deep:
                return Pending(max(0, head - receipt.block + 1))
            if await node.block_hash(receipt.block) != receipt.block_hash:
                return Pending()  # the chain has forked since
            if receipt.succeeded or await self._has_root(payment, deep):
                return Paid(head - receipt.block + 1)
            return SinkRefused("the transaction failed on the chain")
        # 2. Waiting for one.
        if await node.knows(payment.hash):
            return Pending()
        # 3. Another transaction has its nonce: one of its replacements, or a stranger's.
        if deep >= 0 and await node.nonce(self._signer.address, deep) > payment.nonce:
            if await self._has_root(payment, deep):
                return Paid(needed)
            if await node.receipt(payment.hash) is None:
                return SinkRefused("another transaction of the key took its nonce")
            return Pending()
        if await node.nonce(self._signer.address, "pending") > payment.nonce:
            return Pending()
        return Gone()

    async def _has_root(self, payment: PreparedPayment, block: int) -> bool:
        root = await self._contract.root(block)
        return root.hex() == payment.payout_root


def address_fault(address: str) -> str | None:
    """Why this is no address of an account; None if it is one."""
    try:
        read_address(address)
    except BadAddress as error:
        return str(error)
    return None


def cumulative_sums(
    paid: Mapping[str, int], scale: Scale, added: Sequence[tuple[str, int]] = ()
) -> dict[str, int]:
    """The sum of each account in the token's smallest unit, by its address in lower case.

    `paid` and `added`: amounts in 10⁻⁶ of the unit. Parties with one address share a sum. Raises ValueError.
    """
    sums: dict[str, int] = {}
    for address, amount in (*paid.items(), *added):
        account = address.lower()
        sums[account] = sums.get(account, 0) + scale.exact(amount)
    return sums


def _more(fee: int) -> int:
    return fee * _BUMP[0] // _BUMP[1] + 1
