"""Addresses, amounts and trees of payouts on chains, without a chain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.crypto.evm.addresses import BadAddress, address_of, read_address
from coordinator.crypto.evm.keccak import keccak256
from coordinator.crypto.evm.payout_tree import EMPTY_ROOT, PayoutTree, payout_leaf, root_of_proof
from coordinator.settlement.scale import Scale

CONTRACT = "0x" + "42" * 20
# From ERC-55.
CHECKSUMS = (
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
)
sums = st.dictionaries(st.binary(min_size=20, max_size=20).map(address_of), st.integers(1, 2**256 - 1))


def test_keccak_is_not_sha3() -> None:
    """The hash of nothing is Ethereum's."""
    known = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert known == keccak256(b"").hex()


@pytest.mark.parametrize("address", CHECKSUMS)
def test_addresses_have_a_checksum(address: str) -> None:
    """An address is the same in lower case; a changed letter's case is seen."""
    assert address == read_address(address) == read_address(address.lower())
    wrong = address[:-1] + address[-1].swapcase()
    if wrong != address:
        with pytest.raises(BadAddress, match="checksum"):
            read_address(wrong)


@pytest.mark.parametrize("text", ["", "0x", "0x" + "g" * 40, "42" * 20, "0x" + "42" * 21, "0x" + "0" * 40])
def test_other_texts_are_no_addresses(text: str) -> None:
    """Neither is the zero address: money that is paid there is lost."""
    with pytest.raises(BadAddress, match="invalid address"):
        read_address(text)


@given(sums)
def test_every_leaf_has_a_proof(paid: dict[str, int]) -> None:
    """Each account's proof leads from its leaf to the root, and its sum alone does; order does not matter."""
    tree = PayoutTree(1, CONTRACT, paid)
    assert tree.root == PayoutTree(1, CONTRACT, dict(reversed(paid.items()))).root
    assert (tree.root == EMPTY_ROOT) == (not paid)
    for account, cumulative in paid.items():
        proof = tree.proof(account)
        assert len(proof) <= len(paid).bit_length()
        assert tree.root == root_of_proof(payout_leaf(1, CONTRACT, account, cumulative), proof)
        assert tree.root != root_of_proof(payout_leaf(1, CONTRACT, account, cumulative - 1), proof)
        assert tree.root != root_of_proof(payout_leaf(2, CONTRACT, account, cumulative), proof)


@given(st.integers(1, 10**15), st.integers(1, 10**24))
def test_amounts_are_exact_or_refused(micros: int, per_unit: int) -> None:
    """Multiples of the quantum have an equal amount on the chain, and no other amount has one."""
    scale = Scale(per_unit)
    whole = micros * scale.quantum
    assert scale.exact(whole) * 10**6 == whole * per_unit
    if micros % scale.quantum:
        with pytest.raises(ValueError, match="not a multiple"):
            scale.exact(micros)
