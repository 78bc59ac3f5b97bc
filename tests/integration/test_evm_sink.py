"""The sink `evm` against a chain that executes its transactions: it pays once, whatever node and chain do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

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
from coordinator.cli import main
from coordinator.crypto.evm.addresses import address_of
from coordinator.crypto.evm.payout_tree import PayoutTree
from coordinator.domain.settlement import Payout
from coordinator.settlement.evm.rpc import EvmNode
from coordinator.settlement.evm.signer import GWEI, EvmSigner, Fees, read_transaction
from coordinator.settlement.evm.sink import EvmSink, EvmTerms, cumulative_sums
from coordinator.settlement.scale import Scale
from tests.harness.evm_chain import CHAIN_ID, EvmChain, EvmServer, Failed, calldata, http

KEY, STRANGER = "0x" + "01" * 32, "0x" + "02" * 32
CONFIRMATIONS = 3
DECIMALS = 18
FUNDS = 10**21
SECRET = "an-api-key-of-the-provider"


class Stage:
    """A chain, its node, a distributor, and the sink in front of them."""

    def __init__(self, server: EvmServer, token: str, distributor: str) -> None:
        self.server, self.chain = server, server.chain
        self.owner, self.stranger = self.chain.signers
        self.token, self.distributor = token, distributor
        self.paid: dict[str, int] = {}
        self.nonce: int | None = None
        self.number = 0
        self.sink = self.new_sink()

    def new_sink(self, key: str = KEY, timeout: float = 10.0, **other: Any) -> EvmSink:
        terms = EvmTerms(
            chain_id=CHAIN_ID,
            distributor=self.distributor,
            scale=Scale(10**DECIMALS),
            confirmations=CONFIRMATIONS,
            bump_seconds=60,
            tip=GWEI,
            most=100 * GWEI,
        )
        node = EvmNode(f"{self.server.url}/{SECRET}", timeout)
        return EvmSink(node, EvmSigner(key), terms._replace(**other))

    def batch(self, amounts: Mapping[str, int]) -> SinkBatch:
        payouts = [Payout(party=f"p{n}", address=to, amount=of) for n, (to, of) in enumerate(amounts.items())]
        return SinkBatch(self.number + 1, "ab" * 32, 0, payouts, 0)

    async def prepare(self, amounts: Mapping[str, int], sink: EvmSink | None = None) -> PreparedPayment:
        return await (sink or self.sink).prepare(self.batch(amounts), SinkHistory(self.paid, self.nonce))

    def note(self, amounts: Mapping[str, int], payment: PreparedPayment) -> None:
        """What the log has, once the payment is final."""
        self.number += 1
        self.nonce = payment.nonce
        for address, amount in amounts.items():
            self.paid[address] = self.paid.get(address, 0) + amount

    async def pay(self, amounts: Mapping[str, int]) -> PreparedPayment:
        payment = await self.prepare(amounts)
        assert Submitted() == await self.sink.submit(payment)
        self.chain.mine(CONFIRMATIONS)
        assert Final(CONFIRMATIONS) == await self.sink.poll(payment)
        self.note(amounts, payment)
        return payment

    def tree(self) -> PayoutTree:
        return PayoutTree(CHAIN_ID, self.distributor, cumulative_sums(self.paid, Scale(10**DECIMALS)))

    def claim(self, account: str) -> None:
        sums = cumulative_sums(self.paid, Scale(10**DECIMALS))
        own = account.lower()
        self.chain.claim(self.stranger, self.distributor, account, sums[own], self.tree().proof(own))

    def has(self, account: str) -> int:
        return self.chain.read(self.token, "balanceOf(address)", account)

    @property
    def root(self) -> str:
        return f"{self.chain.read(self.distributor, 'root()'):064x}"


@asynccontextmanager
async def staged(funds: int = FUNDS) -> AsyncIterator[Stage]:
    chain = EvmChain(KEY, STRANGER)
    token = chain.new_token(chain.signers[0], DECIMALS)
    distributor = chain.new_distributor(chain.signers[0], token, funds)
    async with EvmServer(chain) as server:
        stage = Stage(server, token, distributor)
        yield stage
        await stage.sink.close()


def account(number: int) -> str:
    return address_of(bytes([0xBB, number]) + b"\xcd" * 18)


async def test_payees_claim_the_same_sums_as_the_ledger_has() -> None:
    """Batches are published one after the other; each party gets its sum to the last unit, and once."""
    async with staged() as stage:
        one, two, three = account(1), account(2), account(3)
        assert await stage.sink.check() is None
        await stage.pay({one: 1, two: 999_999})
        stage.claim(one)
        # Two parties may have one address; its spelling makes no other account.
        await stage.pay({one: 123_456_789, one.lower(): 5, three: 1_000_000})
        for person in (one, two, three):
            stage.claim(person)
            with pytest.raises(Failed, match="nothing to claim"):
                stage.claim(person)
        owed = {one: 123_456_795, two: 999_999, three: 1_000_000}
        assert {who: micros * 10**12 for who, micros in owed.items()} == {who: stage.has(who) for who in owed}
        assert FUNDS - stage.has(stage.distributor) == sum(owed.values()) * 10**12


async def test_a_repeat_of_the_same_bytes_pays_once() -> None:
    """Bytes that are sent again, while they wait or after they are paid, are known to any process."""
    async with staged() as stage:
        payment = await stage.prepare({account(1): 7})
        # A crash before anything was sent, or its answer lost.
        assert Gone() == await stage.sink.poll(payment)
        assert Submitted() == await stage.sink.submit(payment)
        assert Submitted() == await stage.new_sink().submit(payment)
        assert Pending() == await stage.sink.poll(payment)
        stage.chain.mine()
        assert Submitted() == await stage.sink.submit(payment)
        assert Pending(1) == await stage.sink.poll(payment)
        stage.chain.mine()
        assert Pending(2) == await stage.new_sink().poll(payment)
        stage.chain.mine()
        assert Final(3) == await stage.new_sink().poll(payment)
        assert 1 == stage.chain.read(stage.distributor, "batch()")


async def test_a_fork_that_drops_the_transaction_gets_it_again() -> None:
    """A payment of a forgotten block is gone, and the same bytes pay it on the new branch."""
    async with staged() as stage:
        payment = await stage.prepare({account(1): 7})
        await stage.sink.submit(payment)
        stage.chain.mine(2)
        assert Pending(2) == await stage.sink.poll(payment)
        stage.chain.fork_back(2)
        assert Gone() == await stage.sink.poll(payment)
        assert Submitted() == await stage.sink.submit(payment)
        stage.chain.mine()
        # A branch on which it waits again.
        stage.chain.fork_back(1, keep=True)
        assert Pending() == await stage.sink.poll(payment)
        stage.chain.mine(CONFIRMATIONS)
        assert Final(3) == await stage.sink.poll(payment)
        assert payment.payout_root == stage.root


async def test_a_payment_that_waits_is_replaced_under_its_nonce() -> None:
    """A higher fee makes other bytes with the same nonce; both are final once one is, and it pays once."""
    async with staged() as stage:
        first = await stage.prepare({account(1): 7})
        await stage.sink.submit(first)
        assert await stage.sink.replacement([first], 59.0) is None
        second = await stage.sink.replacement([first], 60.0)
        assert second is not None
        assert (first.nonce, first.payout_root) == (second.nonce, second.payout_root)
        old, new = read_transaction(first.body), read_transaction(second.body)
        assert old.data == new.data
        assert new.fees.most >= old.fees.most * 1.125
        assert new.fees.tip >= old.fees.tip * 1.125
        assert Submitted() == await stage.sink.submit(second)
        # The node knows the first one no more, but its place is taken.
        assert Pending() == await stage.sink.poll(first)
        stage.chain.mine(CONFIRMATIONS)
        assert Final(3) == await stage.sink.poll(second)
        assert Final(3) == await stage.sink.poll(first)
        assert payment_count(stage) == 1


async def test_no_fee_is_above_the_most() -> None:
    """A replacement that would cost more than EVM_MAX_FEE_GWEI is not made; nor is a payment."""
    async with staged() as stage:
        payment = await stage.prepare({account(1): 7})
        fees = read_transaction(payment.body).fees
        assert await stage.new_sink(most=fees.most).replacement([payment], 999.0) is None
        with pytest.raises(SinkUnavailable, match="EVM_MAX_FEE_GWEI"):
            await stage.prepare({account(1): 7}, stage.new_sink(most=GWEI))


async def test_only_the_chain_refuses_and_only_below_enough_blocks() -> None:
    """A failed transaction, or another one with its nonce, ends the payment below enough blocks."""
    async with staged(funds=10**18) as stage:
        amounts = {account(1): 1_000_000}
        payment = await stage.prepare(amounts)
        # The funds leave the contract before the block.
        spare = calldata("withdraw(address)", stage.stranger.address)
        await stage.sink.submit(payment)
        stage.chain.waiting, waiting = [], stage.chain.waiting
        stage.chain.transact(stage.owner, stage.distributor, spare)
        stage.chain.waiting = waiting
        stage.chain.mine()
        # The same nonce: the withdrawal took it, so the payment can never be in a block.
        assert Pending() == await stage.sink.poll(payment)
        stage.chain.mine(CONFIRMATIONS)
        answer = await stage.sink.poll(payment)
        assert isinstance(answer, SinkRefused)
        assert "nonce" in answer.reason
        # A payment that executes and fails: the funds are there when it is made, and not when it runs.
        fund = calldata("transfer(address,uint256)", stage.distributor, 10**18)
        stage.chain.transact(stage.owner, stage.token, fund)
        payment = await stage.prepare(amounts)
        signed = stage.owner.sign(
            chain_id=CHAIN_ID,
            nonce=payment.nonce or 0,
            to=stage.distributor,
            data=spare,
            gas=200_000,
            fees=Fees(50 * GWEI, GWEI),
        )
        later = await_nonce(stage, payment, (payment.nonce or 0) + 1)
        stage.chain.send(signed.raw)
        await stage.sink.submit(later)
        stage.chain.mine()
        assert Pending(1) == await stage.sink.poll(later)
        stage.chain.mine(CONFIRMATIONS)
        answer = await stage.sink.poll(later)
        assert isinstance(answer, SinkRefused)
        assert "failed" in answer.reason


async def test_a_root_that_another_transaction_published_counts() -> None:
    """A wallet may raise the fee of a transaction by itself: the batch is paid, and not refused."""
    async with staged() as stage:
        payment = await stage.prepare({account(1): 7})
        sent = read_transaction(payment.body)
        stage.chain.transact(stage.owner, stage.distributor, sent.data)
        assert Pending() == await stage.sink.poll(payment)
        stage.chain.mine(CONFIRMATIONS)
        assert Final(3) == await stage.sink.poll(payment)


async def test_nothing_is_prepared_against_another_chain_or_contract() -> None:
    """Chain, contract, publisher, decimals and the root before are checked; each fault names its setting."""
    async with staged() as stage:
        await stage.pay({account(1): 7})
        faults = {
            "EVM_CHAIN_ID: 1, but the node is of chain 1337": stage.new_sink(chain_id=1),
            "EVM_DISTRIBUTOR: there is no contract": stage.new_sink(distributor=account(9)),
            "EVM_PRIVATE_KEY: it is of": stage.new_sink(STRANGER),
            "EVM_TOKEN_DECIMALS: the token has 18": stage.new_sink(scale=Scale(10**6)),
        }
        for fault, sink in faults.items():
            assert fault in str(await sink.check())
            with pytest.raises(SinkUnavailable, match=fault):
                await stage.prepare({account(1): 7}, sink)
        # A log that knows less than the contract has paid, such as one from an old backup.
        stage.paid = {}
        with pytest.raises(SinkUnavailable, match="the contract's root is not the one"):
            await stage.prepare({account(1): 7})


async def test_a_batch_that_is_not_funded_waits() -> None:
    """Nothing is sent that the contract would refuse; funds make it go on."""
    async with staged(funds=0) as stage:
        amounts = {account(1): 7}
        with pytest.raises(SinkUnavailable, match="not funded"):
            await stage.prepare(amounts)
        stage.chain.transact(
            stage.owner, stage.token, calldata("transfer(address,uint256)", stage.distributor, 7 * 10**12)
        )
        await stage.pay(amounts)


async def test_a_node_that_is_behind_gets_no_new_payment() -> None:
    """Two batches never share a nonce: not with a node that is behind, nor beside a waiting transaction."""
    async with staged() as stage:
        await stage.pay({account(1): 7})
        stage.chain.fork_back(CONFIRMATIONS)
        with pytest.raises(SinkUnavailable, match="the contract's root is not the one"):
            await stage.prepare({account(1): 7})
    async with staged() as stage:
        payment = await stage.prepare({account(1): 7})
        await stage.sink.submit(payment)
        with pytest.raises(SinkUnavailable, match="waits for a block"):
            await stage.prepare({account(1): 8})


async def test_an_operator_deploys_the_contract(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`coordinator settlement deploy` makes a contract that the sink accepts, and prints its setting."""
    async with staged() as stage:
        stage.server.mines = True
        monkeypatch.setenv("EVM_RPC_URL", f"{stage.server.url}/{SECRET}")
        monkeypatch.setenv("EVM_PRIVATE_KEY", KEY)
        for chain_id, token, code, says in (
            ("1", stage.token, 1, "CHAIN: EVM_CHAIN_ID: 1, but the node is of chain 1337"),
            (str(CHAIN_ID), account(9), 1, "CHAIN: there is no contract of a token"),
            (str(CHAIN_ID), "0x42", 1, "CHAIN: invalid address"),
            (str(CHAIN_ID), stage.token.lower(), 0, "transaction 0x"),
        ):
            monkeypatch.setenv("EVM_CHAIN_ID", chain_id)
            arguments = ["settlement", "deploy", token, "--owner", account(5)]
            assert code == await asyncio.to_thread(main, arguments)
            printed = capsys.readouterr()
            assert says in printed.err
            assert SECRET not in printed.err
        name, _, made = printed.out.strip().partition("=")
        assert ("EVM_DISTRIBUTOR", True) == (name, made != stage.distributor)
        assert await stage.new_sink(distributor=made).check() is None
        assert int(account(5), 16) == stage.chain.read(made, "owner()")


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"\x00\x01\x02 hello\r\n\r\n",
    "no JSON": http(b"<html>busy</html>", "502 Bad Gateway"),
    "an error without words": http(b'{"jsonrpc":"2.0","id":1,"error":[]}'),
    "a secret in an error": http(f'{{"jsonrpc":"2.0","id":1,"error":{{"message":"{SECRET}"}}}}'.encode()),
    "an array": http(b"[]"),
    "another id": http(b'{"jsonrpc":"2.0","id":-1,"result":"0x1"}'),
    "deep": http(b"[" * 100_000),
    "a long number": http(b'{"id":1,"result":' + b"9" * 5000 + b"}"),
    "huge": http(b" " * 3_000_000),
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
    "elsewhere": b"HTTP/1.1 307 T\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
}
TYPES: tuple[Any, ...] = (None, True, "0x", "0x" + "f" * 65, {})
METHODS = (
    *("eth_chainId", "eth_blockNumber", "eth_getBlockByNumber", "eth_getTransactionCount", "eth_getCode"),
    *("eth_call", "eth_estimateGas", "eth_sendRawTransaction", "eth_getTransactionByHash"),
    "eth_getTransactionReceipt",
)


async def test_hostile_answers_change_nothing() -> None:
    """Whatever a node answers, and to which method, the sink says that it can't know, and shows no secret."""
    async with staged() as stage:
        payment = await stage.prepare({account(1): 7})
        await stage.sink.submit(payment)
        for answer in HOSTILE.values():
            stage.server.instead = dict.fromkeys(METHODS, partial(said, answer))
            await outcomes_are_harmless(stage, payment)
        for method in METHODS:
            for value in TYPES:
                stage.server.instead = {method: partial(typed, stage, value)}
                await outcomes_are_harmless(stage, payment)


async def outcomes_are_harmless(stage: Stage, payment: PreparedPayment) -> None:
    stage.chain.waiting = []  # so that each prepare goes its whole way
    try:
        await stage.prepare({account(1): 7})
    except SinkUnavailable as error:
        told = str(error)
        assert SECRET not in told
    for answer in (await stage.sink.submit(payment), await stage.sink.poll(payment)):
        assert isinstance(answer, (Submitted, Unknown, Pending, Gone))
        assert not isinstance(answer, Unknown) or SECRET not in answer.reason


def said(answer: bytes, params: list[Any]) -> bytes:
    return answer


def typed(stage: Stage, value: Any, params: list[Any]) -> bytes:
    content = {"jsonrpc": "2.0", "id": stage.sink._node._id, "result": value}
    return http(json.dumps(content).encode())


async def test_a_node_that_never_ends_its_answer_is_left() -> None:
    """A node that trickles, or says nothing, costs its timeout and no more."""

    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with staged() as stage:
        payment = await stage.prepare({account(1): 7})
        stage.server._play = trickle
        sink = stage.new_sink(timeout=0.2)
        assert Unknown("EVM_RPC_URL: no answer within 0.2 s") == await sink.submit(payment)
        await sink.close()
    closed = stage.new_sink()
    assert Unknown("EVM_RPC_URL: can't connect; is the node running?") == await closed.poll(payment)


def payment_count(stage: Stage) -> int:
    return stage.chain.read(stage.distributor, "batch()")


def await_nonce(stage: Stage, payment: PreparedPayment, nonce: int) -> PreparedPayment:
    """The same payment under a later nonce, as if it were prepared then."""
    sent = read_transaction(payment.body)
    signed = stage.owner.sign(
        chain_id=CHAIN_ID, nonce=nonce, to=stage.distributor, data=sent.data, gas=sent.gas, fees=sent.fees
    )
    return payment._replace(body=signed.raw, hash=signed.hash, nonce=nonce)
