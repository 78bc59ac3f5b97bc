"""The Merkle tree over cumulative payouts that the contract `settlement/evm/distributor.vy` checks.

A leaf binds the chain and the contract, and is hashed twice, so that no inner node passes for one. The two
hashes of a pair are sorted, and an odd last one moves up, so that a proof is a plain list of hashes. (The
log's own tree, `crypto.merkle`, is of another kind: RFC 6962.)

Source: OpenZeppelin's merkle-tree (standard trees) and MerkleProof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from coordinator.crypto.evm.addresses import address_bytes
from coordinator.crypto.evm.keccak import KECCAK_BYTES, keccak256

EMPTY_ROOT: Final = bytes(KECCAK_BYTES)
"""The contract's root before the first batch."""
WORD_BYTES: Final = 32


class PayoutTree:
    """A tree, with the proof of each account."""

    def __init__(self, chain_id: int, contract: str, sums: Mapping[str, int]) -> None:
        """`sums`: the cumulative sum of each account, in the token's smallest unit; all are above zero.

        Equal sums make equal trees, whatever their order.
        """
        self._leaves = {
            account: payout_leaf(chain_id, contract, account, cumulative)
            for account, cumulative in sums.items()
        }
        level = sorted(self._leaves.values())
        self._places = {leaf: place for place, leaf in enumerate(level)}
        self._levels = [level]
        while len(level) > 1:
            level = _pairs(level)
            self._levels.append(level)
        self.root: bytes = level[0] if level else EMPTY_ROOT

    def proof(self, account: str) -> list[bytes]:
        """The hashes from the account's leaf to the root. Raises KeyError for an account without a leaf."""
        place = self._places[self._leaves[account]]
        found = []
        for level in self._levels[:-1]:
            sibling = place ^ 1
            if sibling < len(level):
                found.append(level[sibling])
            place //= 2
        return found


def payout_leaf(chain_id: int, contract: str, account: str, cumulative: int) -> bytes:
    """The hash of one account's leaf. Raises ValueError for a number that no 256 bits hold."""
    words = (
        word(chain_id),
        address_bytes(contract).rjust(WORD_BYTES, b"\0"),
        address_bytes(account).rjust(WORD_BYTES, b"\0"),
        word(cumulative),
    )
    return keccak256(keccak256(b"".join(words)))


def root_of_proof(leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root that a proof leads to."""
    root = leaf
    for sibling in proof:
        root = _node(root, sibling)
    return root


def word(number: int) -> bytes:
    """A number as the contract's ABI has it. Raises ValueError."""
    if not 0 <= number < 1 << 256:
        raise ValueError("the number does not fit into 256 bits")
    return number.to_bytes(WORD_BYTES, "big")


def _pairs(level: list[bytes]) -> list[bytes]:
    pairs = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return [*pairs, level[-1]] if len(level) % 2 else pairs


def _node(one: bytes, other: bytes) -> bytes:
    return keccak256(one + other if one < other else other + one)
