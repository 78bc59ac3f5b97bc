"""The sink `aitbc` against a stand-in that keeps the rules of AITBC's API which we know."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from coordinator.application.ports import (
    Final,
    Gone,
    Pending,
    PreparedPayment,
    SinkBatch,
    SinkHistory,
    SinkRefused,
    SinkUnavailable,
    Submitted,
    Unknown,
)
from coordinator.domain.settlement import Payout
from coordinator.settlement.aitbc.node import AitbcNode
from coordinator.settlement.aitbc.sink import AitbcSink, AitbcTerms
from coordinator.settlement.aitbc.transfer import TransferSigner
from coordinator.settlement.scale import Scale
from tests.harness.aitbc_chain import CHAIN, AitbcStandIn, Holder
from tests.harness.evm_chain import http

SIGNER = TransferSigner("03" * 32)
ONE, TWO = "0x" + "a1" * 20, "0x" + "b2" * 20
FEE = 36
CONFIRMATIONS = 2
UNIT = 3600
"""Compute-seconds of one unit."""


class Stage:
    """A stand-in, the sink, and a clock that stands still."""

    def __init__(self, chain: AitbcStandIn) -> None:
        self.chain = chain
        self.clock = 0.0
        self.nonce: int | None = None
        terms = AitbcTerms(CHAIN, Scale(UNIT), FEE, CONFIRMATIONS)
        node = AitbcNode(chain.url, CHAIN, timeout=5.0)
        self.sink = AitbcSink(node, SIGNER, terms, lambda: self.clock)

    async def prepare(self, amounts: Mapping[str, int], first: int = 0) -> PreparedPayment:
        payouts = [Payout(party=f"p{n}", address=to, amount=of) for n, (to, of) in enumerate(amounts.items())]
        batch = SinkBatch(1, "cd" * 32, 0, payouts, first)
        return await self.sink.prepare(batch, SinkHistory({}, self.nonce))

    async def pay(self, amounts: Mapping[str, int], first: int = 0) -> None:
        payment = await self.prepare(amounts, first)
        assert Submitted() == await self.sink.submit(payment)
        self.chain.mine(CONFIRMATIONS)
        assert Final(CONFIRMATIONS) == await self.sink.poll(payment)
        self.nonce = payment.nonce


@asynccontextmanager
async def staged(balance: int = 10**9) -> AsyncIterator[Stage]:
    async with AitbcStandIn(**{SIGNER.address: balance}) as chain:
        stage = Stage(chain)
        yield stage
        await stage.sink.close()


async def test_each_payee_gets_a_transfer_of_its_own() -> None:
    """A payment covers one payout, under the account's nonce; its sum is the ledger's, to the last unit."""
    async with staged() as stage:
        amounts = {ONE: 2_500, TWO: 3_000_000}
        assert await stage.sink.check() is None
        for place in range(2):
            await stage.pay(amounts, place)
        assert (9, 3 * UNIT) == (stage.chain.balance(ONE), stage.chain.balance(TWO))
        assert 10**9 - 9 - 3 * UNIT - 2 * FEE == stage.chain.balance(SIGNER.address)


async def test_the_hash_is_known_before_anything_is_sent() -> None:
    """The hash in the log is the one by which the chain knows the transfer; equal facts make equal bytes."""
    async with staged() as stage:
        payment = await stage.prepare({ONE: 2_500})
        assert payment == await stage.prepare({ONE: 2_500})
        assert payment.hash != (await stage.prepare({TWO: 1, ONE: 2_500}, 1)).hash
        await stage.sink.submit(payment)
        assert [payment.hash] == list(stage.chain.mempool)
        assert json.loads(payment.body)["payload"]["amount"] == json.loads(payment.body)["amount"] == 9


async def test_a_repeat_pays_once_and_a_vanished_transfer_is_sent_again() -> None:
    """A node says nothing of a transfer that it dropped: in no block, with its nonce unused, it is gone."""
    async with staged() as stage:
        payment = await stage.prepare({ONE: 2_500})
        assert Gone() == await stage.sink.poll(payment)
        await stage.sink.submit(payment)
        stage.chain.mempool.clear()
        stage.chain.mine()
        assert Gone() == await stage.sink.poll(payment)
        for _ in range(2):
            assert Submitted() == await stage.sink.submit(payment)
        stage.chain.mine()
        assert Pending(1) == await stage.sink.poll(payment)
        # Sent again after its block, its nonce has passed: an error that proves nothing.
        answer = await stage.sink.submit(payment)
        assert isinstance(answer, Unknown)
        assert "invalid nonce" in answer.reason
        stage.chain.mine()
        assert Final(2) == await stage.sink.poll(payment)
        assert 9 == stage.chain.balance(ONE)


async def test_a_transfer_whose_nonce_is_taken_is_refused() -> None:
    """Another transfer of the account took the nonce: this one can be in no block any more."""
    async with staged() as stage:
        ours, other = await stage.prepare({ONE: 2_500}), await stage.prepare({TWO: 2_500})
        await stage.sink.submit(other)
        stage.chain.mine()
        assert isinstance(await stage.sink.poll(ours), SinkRefused)
        assert Pending(1) == await stage.sink.poll(other)


async def test_a_nonce_from_the_nodes_cache_is_not_used() -> None:
    """The node may tell an old nonce for 30 s: nothing is prepared with one that the log has used already."""
    async with staged() as stage:
        await stage.pay({ONE: 2_500})
        stage.chain.cached[SIGNER.address] = Holder(10**9, 0)
        for stage.clock in (0.0, 59.0):
            with pytest.raises(SinkUnavailable, match="does not tell the nonce"):
                await stage.prepare({ONE: 2_500})
        # After that it is no cache: the last transfer was given up by hand, and its nonce is free.
        stage.clock = 61.0
        assert 0 == (await stage.prepare({ONE: 2_500})).nonce
        stage.chain.cached.clear()
        assert 1 == (await stage.prepare({ONE: 2_500})).nonce


async def test_too_little_money_waits() -> None:
    """A transfer that the chain would drop is not made; the error says how much is missing."""
    async with staged(balance=44) as stage:
        with pytest.raises(SinkUnavailable, match="has 44, and needs 45"):
            await stage.prepare({ONE: 2_500})
        with pytest.raises(SinkUnavailable, match="not a multiple of 2500"):
            await stage.prepare({ONE: 2_501})


async def test_an_account_that_the_chain_has_not_is_a_fault() -> None:
    """A key without an account, or another chain's node, is told at the start."""
    async with AitbcStandIn() as chain:
        stage = Stage(chain)
        assert f"chain {CHAIN} has no account {SIGNER.address}" in str(await stage.sink.check())
        await stage.sink.close()


HOSTILE = (
    *(b"", http(b"<html>"), http(b"[]"), http(b"{}"), http(b'{"detail":1}', "404 Not Found")),
    *(http(b'{"nonce":true,"balance":"1"}'), http(b'{"nonce":-1,"balance":1e9}'), http(b"[" * 100_000)),
    *(http(b" " * 2_000_000), http(b'{"transaction_hash":5}'), http(b'{"detail":[]}', "400 Bad Request")),
    *(http(b'{"block_height":1}'), http(b'{"block_height":"1","tx_hash":"x"}'), http(b'{"height":9e99}')),
)


async def test_hostile_answers_change_nothing() -> None:
    """Whatever a node answers, the sink can't know, or sends the same bytes again: it never refuses."""
    async with staged() as stage:
        payment = await stage.prepare({ONE: 2_500})
        for answer in HOSTILE:
            stage.chain.instead = lambda _, answer=answer: answer  # type: ignore[misc]
            with pytest.raises(SinkUnavailable):
                await stage.prepare({ONE: 2_500})
            assert isinstance(await stage.sink.submit(payment), Unknown)
            assert isinstance(await stage.sink.poll(payment), (Unknown, Gone))


async def test_another_transfer_under_its_hash_is_not_believed() -> None:
    """A block's transfer counts only if its parties, value and nonce are those that were sent."""
    async with staged() as stage:
        payment = await stage.prepare({ONE: 2_500})
        await stage.sink.submit(payment)
        stage.chain.mine(CONFIRMATIONS)
        (block,) = (block for block in stage.chain.blocks if block)
        block[0]["amount"] = 1
        assert isinstance(await stage.sink.poll(payment), Unknown)
