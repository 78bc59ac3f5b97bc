"""The contract that pays by a Merkle root: what it grants, and what it refuses, on a chain that runs it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from coordinator.crypto.evm.addresses import address_of
from coordinator.crypto.evm.payout_tree import EMPTY_ROOT, PayoutTree, word
from coordinator.dev.distributor import compiled as compiled_now
from coordinator.settlement.evm.contract import compiled, creation, set_root
from coordinator.settlement.evm.signer import EvmSigner
from tests.harness.evm_chain import (
    CHAIN_ID,
    REENTERING_TOKEN,
    EvmChain,
    Failed,
    bytecode,
    calldata,
)

OWNER, STRANGER = "0x" + "01" * 32, "0x" + "02" * 32


class Stage:
    """A chain with a token and its distributor."""

    def __init__(self, funds: int) -> None:
        self.chain = EvmChain(OWNER, STRANGER)
        self.owner, self.stranger = self.chain.signers
        self.token = self.chain.new_token(self.owner)
        self.distributor = self.chain.new_distributor(self.owner, self.token, funds)
        self.sums: dict[str, int] = {}
        self.tree = self.tree_of({})
        self.batch = 0

    def tree_of(self, sums: dict[str, int]) -> PayoutTree:
        return PayoutTree(CHAIN_ID, self.distributor, sums)

    def publish(self, sums: dict[str, int], total: int | None = None, by: EvmSigner | None = None) -> None:
        """Set the root of these cumulative sums. Raises Failed."""
        tree, total = self.tree_of(sums), sum(sums.values()) if total is None else total
        data = set_root(self.tree.root, tree.root, total, self.batch + 1)
        self.chain.transact(by or self.owner, self.distributor, data)
        self.sums, self.tree, self.batch = dict(sums), tree, self.batch + 1

    def claim(self, account: str, **other: Any) -> None:
        """Claim all of an account, as a stranger. Raises Failed."""
        facts: dict[str, Any] = {
            "sum_": self.sums.get(account, 0),
            "proof": self.tree.proof(account),
            **other,
        }
        self.chain.claim(self.stranger, self.distributor, account, **facts)

    def has(self, account: str) -> int:
        return self.chain.read(self.token, "balanceOf(address)", account)


def accounts(number: int) -> list[str]:
    return [address_of(bytes([0xAA, n // 256, n % 256]) + b"\x01" * 17) for n in range(number)]


def test_the_package_has_what_the_compiler_makes() -> None:
    """A changed contract is compiled into the package, too: `python -m coordinator.dev.distributor`."""
    assert compiled_now() == compiled()


def test_each_batch_pays_the_difference_to_every_account() -> None:
    """Random batches pay each account its sum to the last unit, whenever it claims, and nobody twice."""
    seen = random.Random(7)
    stage = Stage(funds=10**12)
    people = accounts(13)
    sums: dict[str, int] = {}
    for _ in range(4):
        for account in seen.sample(people, seen.randint(1, len(people))):
            sums[account] = sums.get(account, 0) + seen.randint(1, 10**9)
        stage.publish(sums)
        for account in seen.sample(sorted(sums), 3):
            if stage.has(account) < sums[account]:
                stage.claim(account)
                assert sums[account] == stage.has(account)
            with pytest.raises(Failed, match="nothing to claim"):
                stage.claim(account)
    for account in sums:
        if stage.has(account) < sums[account]:
            stage.claim(account)
    assert sums == {account: stage.has(account) for account in sums}
    assert sum(sums.values()) == stage.chain.read(stage.distributor, "paid()")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9])
def test_trees_of_all_shapes_have_proofs(size: int) -> None:
    """The contract accepts the proof of each leaf, in trees with and without odd last nodes."""
    stage = Stage(funds=1000)
    people = accounts(size)
    stage.publish({account: 1 + n for n, account in enumerate(people)})
    for account in people:
        stage.claim(account)
    assert [1 + n for n in range(size)] == [stage.has(account) for account in people]


def test_wrong_claims_are_refused() -> None:
    """A proof proves one sum of one account under one root; a root, a pair and a word of it prove nothing."""
    stage = Stage(funds=1000)
    one, two, three = accounts(3)
    stage.publish({one: 10, two: 20, three: 30})
    wrongs: tuple[dict[str, Any], ...] = (
        {"sum_": 11},
        {"proof": stage.tree.proof(two)},
        {"proof": []},
        {"proof": [stage.tree.root]},
        {"proof": [*stage.tree.proof(one)[::-1], EMPTY_ROOT]},
    )
    for wrong in wrongs:
        with pytest.raises(Failed, match="invalid proof"):
            stage.claim(one, **wrong)
    old = stage.tree.proof(one)
    stage.publish({one: 15, two: 20, three: 30})
    with pytest.raises(Failed, match="invalid proof"):
        stage.claim(one, sum_=10, proof=old)
    assert 0 == stage.has(one)
    # The same leaves of another chain or contract have another root.
    elsewhere = PayoutTree(CHAIN_ID + 1, stage.distributor, stage.sums)
    with pytest.raises(Failed, match="invalid proof"):
        stage.claim(one, proof=elsewhere.proof(one))


def test_roots_are_the_owners_and_follow_each_other() -> None:
    """Nobody else sets a root; none comes twice or late, lacks funds, or promises less than before."""
    stage = Stage(funds=100)
    one, two = accounts(2)
    with pytest.raises(Failed, match="not the publisher"):
        stage.publish({one: 10}, by=stage.stranger)
    with pytest.raises(Failed, match="not funded"):
        stage.publish({one: 101})
    stage.publish({one: 60})
    with pytest.raises(Failed, match="sums never fall"):
        stage.publish({one: 59})
    repeated = set_root(EMPTY_ROOT, stage.tree.root, 60, 2)
    with pytest.raises(Failed, match="another root is set"):
        stage.chain.transact(stage.owner, stage.distributor, repeated)
    earlier = set_root(stage.tree.root, EMPTY_ROOT, 60, 1)
    with pytest.raises(Failed, match="not a later batch"):
        stage.chain.transact(stage.owner, stage.distributor, earlier)
    # What is paid needs no funds any more.
    stage.claim(one)
    stage.publish({one: 60, two: 40})
    stage.claim(two)
    assert (60, 40) == (stage.has(one), stage.has(two))


def test_no_root_pays_more_than_its_total() -> None:
    """A root whose sums are more than its total pays the total at most: what others deposited stays."""
    stage = Stage(funds=1000)
    one, two = accounts(2)
    stage.publish({one: 50, two: 60}, total=100)
    stage.claim(one)
    with pytest.raises(Failed, match="more than the total"):
        stage.claim(two)
    assert (50, 0) == (stage.has(one), stage.has(two))


def test_the_owner_withdraws_only_what_nobody_was_promised() -> None:
    """Promised tokens stay for those who have not claimed; the owner replaces itself, and the publisher."""
    stage = Stage(funds=1000)
    (one,) = accounts(1)
    stage.publish({one: 300})
    safe = address_of(b"\x5a" * 20)
    withdraw = calldata("withdraw(address)", safe)
    with pytest.raises(Failed, match="not the owner"):
        stage.chain.transact(stage.stranger, stage.distributor, withdraw)
    stage.chain.transact(
        stage.owner, stage.distributor, calldata("set_owner(address)", stage.stranger.address)
    )
    with pytest.raises(Failed, match="not the owner"):
        stage.chain.transact(stage.owner, stage.distributor, withdraw)
    stage.chain.transact(stage.stranger, stage.distributor, withdraw)
    assert 700 == stage.has(safe)
    # A lost or stolen key publishes no more.
    replace = calldata("set_publisher(address)", stage.stranger.address)
    with pytest.raises(Failed, match="not the owner"):
        stage.chain.transact(stage.owner, stage.distributor, replace)
    stage.chain.transact(stage.stranger, stage.distributor, replace)
    with pytest.raises(Failed, match="not the publisher"):
        stage.publish({one: 301})
    stage.publish({one: 300}, by=stage.stranger)
    stage.claim(one)
    assert 300 == stage.has(one)


def test_a_token_that_calls_back_is_paid_once() -> None:
    """A transfer that claims again, before it returns, undoes the whole claim."""
    chain = EvmChain(OWNER, STRANGER)
    owner, stranger = chain.signers
    token = chain.deploy(owner, bytecode(REENTERING_TOKEN) + word(1000))
    distributor = chain.deploy(owner, creation(token, owner.address))
    chain.transact(owner, token, calldata("transfer(address,uint256)", distributor, 1000))
    (one,) = accounts(1)
    tree = PayoutTree(CHAIN_ID, distributor, {one: 10})
    chain.transact(owner, distributor, set_root(EMPTY_ROOT, tree.root, 10, 1))
    chain.transact(owner, token, calldata("aim(address,uint256)", one, 10))
    with pytest.raises(Failed):
        chain.claim(stranger, distributor, one, 10, [])
    chain.transact(owner, token, calldata("aim(address,uint256)", "0x00", 0))
    chain.claim(stranger, distributor, one, 10, [])
    assert 10 == chain.read(token, "balanceOf(address)", one)
