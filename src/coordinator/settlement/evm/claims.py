"""The facts that a payee needs to claim from the contract by itself: its sum, and the proof of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from threading import Lock
from typing import NamedTuple

from coordinator.crypto.evm.addresses import read_address
from coordinator.crypto.evm.payout_tree import PayoutTree
from coordinator.settlement.evm.contract import claim
from coordinator.settlement.evm.sink import cumulative_sums
from coordinator.settlement.scale import Scale


class ClaimTerms(NamedTuple):
    """The contract from which payees claim."""

    chain_id: int
    distributor: str
    """Its address, with its checksum."""
    scale: Scale


class Claim(NamedTuple):
    """The arguments of `claim`."""

    account: str
    cumulative: int
    """All that the account was ever granted, in the token's smallest unit; it gets the unclaimed part."""
    proof: list[bytes]

    @property
    def data(self) -> bytes:
        """The data of the call: anybody may send it to the contract."""
        return claim(self.account, self.cumulative, self.proof)


class ClaimBook:
    """Claims under the root of the last batch that is paid. May be used by several threads."""

    def __init__(self, terms: ClaimTerms) -> None:
        self.terms = terms
        self._lock = Lock()
        self._last: tuple[int, dict[str, int], PayoutTree] | None = None
        """The last batch, its sums and its tree: a tree of many accounts takes a while."""

    def claims(
        self, batch: int, paid: Mapping[str, int], addresses: Collection[str]
    ) -> tuple[bytes, list[Claim]]:
        """The root, and the claims of these addresses.

        `paid`: all amounts by address up to this batch, in 10⁻⁶ of the unit, those of `addresses` among them.
        Raises ValueError for an amount that the token has not.
        """
        terms = self.terms
        with self._lock:
            if self._last is None or self._last[0] != batch:
                sums = cumulative_sums(paid, terms.scale)
                self._last = (batch, sums, PayoutTree(terms.chain_id, terms.distributor, sums))
            _, sums, tree = self._last
        accounts = sorted({address.lower() for address in addresses})
        claims = [Claim(read_address(account), sums[account], tree.proof(account)) for account in accounts]
        return tree.root, claims
