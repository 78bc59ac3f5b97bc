"""The roots that a contract was sent: each is that of the tree of all sums, and names the one before.

The log has neither the contract nor its token: the first transaction says them, and all others have to fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from coordinator.audit.entries import Found
from coordinator.crypto.evm.addresses import ADDRESS_BYTES, read_address
from coordinator.crypto.evm.keccak import keccak256
from coordinator.crypto.evm.payout_tree import EMPTY_ROOT, WORD_BYTES, PayoutTree

MICROS: Final = 10**6
"""Of one unit of the ledger."""
MAX_DECIMALS: Final = 36
"""More than any token has."""
_POWERS: Final = frozenset(10**decimals for decimals in range(MAX_DECIMALS + 1))
EIP_1559: Final = b"\x02"
"""The type of a transaction, before its list."""
_FIELDS: Final = 12
_SET_ROOT: Final = "set_root(bytes32,bytes32,uint256,uint256)"


class Publication(NamedTuple):
    """The facts of a signed transaction that publishes a root."""

    chain_id: int
    contract: str
    """In lower case."""
    nonce: int
    old_root: bytes
    new_root: bytes
    total: int
    """Of all sums, in the token's smallest unit."""
    batch: int


class Publications:
    """The sums that are paid by the batches so far, and their root."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}
        """In 10⁻⁶ of the unit, by address in lower case."""
        self.root = EMPTY_ROOT.hex()
        self.contract: list[Any] = []
        """Chain, address, and the number of the token's smallest units in one unit; empty at first."""
        self.next: list[Any] = []
        """The sums and the root of the open part, once it is prepared."""

    def prepared(self, event: Mapping[str, Any], raw: bytes, payouts: Sequence[tuple[str, int]]) -> None:
        """Compare the bytes of a part that pays these addresses. Raises Found, and NoKeccak."""
        if (digest := "0x" + keccak256(raw).hex()) != event["hash"]:
            raise Found("settlement", "the hash is that of the bytes", digest, event["hash"])
        try:
            sent = read_publication(raw)
        except ValueError as error:
            raise Found("settlement", f"the bytes publish a root: {error}") from None
        about = [event["number"], event["nonce"], event["payout_root"]]
        if about != [sent.batch, sent.nonce, sent.new_root.hex()]:
            expected = [sent.batch, sent.nonce, sent.new_root.hex()]
            raise Found("settlement", "the event says what the bytes publish", expected, about)
        if sent.old_root.hex() != self.root:
            raise Found("settlement", "a root follows the one before", self.root, sent.old_root.hex())
        sums = dict(self.sums)
        for address, amount in payouts:
            sums[address.lower()] = sums.get(address.lower(), 0) + amount
        contract = [sent.chain_id, sent.contract, _per_unit(sent.total, sum(sums.values()))]
        if self.contract not in ([], contract):
            raise Found("settlement", "all roots are of one contract and token", self.contract, contract)
        if self.next[:1] != [sums]:  # other bytes of a part mostly have another fee only
            self.next = [sums, _root(contract, sums)]
        if self.next[1] != sent.new_root.hex():
            detail = "a published root is the one over all sums that are paid"
            raise Found("settlement", detail, self.next[1], sent.new_root.hex())
        self.contract = contract

    def confirmed(self) -> None:
        """The open part is paid."""
        [self.sums, self.root], self.next = self.next, []

    def refused(self) -> None:
        """The open part is not paid."""
        self.next = []

    def dump(self) -> dict[str, Any]:
        """For a file; see `load`."""
        return dict(vars(self))

    @classmethod
    def load(cls, values: dict[str, Any]) -> Publications:
        """The publications of `dump`, read from JSON."""
        publications = cls()
        vars(publications).update(values)
        return publications


def read_publication(raw: bytes) -> Publication:
    """The facts of a signed transaction, as EIP-1559 and the contract's ABI have them. Raises ValueError."""
    if raw[:1] != EIP_1559:
        raise ValueError("a transaction of type 2 is expected")
    fields = _fields(raw[1:])
    if len(fields) != _FIELDS:
        raise ValueError(f"{_FIELDS} fields are expected")
    chain_id, nonce, _, _, _, to, value, data = fields[:8]
    if len(to) != ADDRESS_BYTES or value:
        raise ValueError("a call that moves no coins is expected")
    selector, words = data[:4], [data[i : i + WORD_BYTES] for i in range(4, len(data), WORD_BYTES)]
    if selector != keccak256(_SET_ROOT.encode())[:4] or [len(word) for word in words] != [WORD_BYTES] * 4:
        raise ValueError(f"a call of {_SET_ROOT} is expected")
    old_root, new_root, total, batch = words
    return Publication(
        _number(chain_id),
        "0x" + to.hex(),
        _number(nonce),
        old_root,
        new_root,
        _number(total),
        _number(batch),
    )


def _root(contract: Sequence[Any], sums: Mapping[str, int]) -> str:
    chain_id, address, per_unit = contract
    exact = {account: divmod(amount * per_unit, MICROS) for account, amount in sums.items()}
    for account, (_, rest) in exact.items():
        if rest:
            raise Found("settlement", f"the token has the sum of {account} exactly", None, sums[account])
    try:
        accounts = {read_address(account): whole for account, (whole, _) in exact.items()}
        return PayoutTree(chain_id, address, accounts).root.hex()
    except ValueError as error:
        raise Found("settlement", f"a contract pays addresses of accounts: {error}") from None


def _per_unit(total: int, micros: int) -> int:
    """How many of the token's smallest units one unit of the ledger is: a power of ten."""
    per_unit, rest = divmod(total * MICROS, micros)
    if rest or per_unit not in _POWERS:
        raise Found("settlement", "the published total is that of all sums that are paid", micros, total)
    return per_unit


# --- the form of a transaction (RLP) ------------------------------------------------------------------------
def _fields(raw: bytes) -> list[bytes]:
    """The fields of a list; a field that is a list itself has no bytes. Raises ValueError."""
    is_list, at, end = _item(raw, 0)
    if not is_list or end != len(raw):
        raise ValueError("one list is expected")
    fields = []
    while at < end:
        is_list, start, at = _item(raw, at)
        fields.append(b"" if is_list else raw[start:at])
    return fields


def _item(raw: bytes, at: int) -> tuple[bool, int, int]:
    """Whether the item here is a list, and where its content begins and ends. Raises ValueError."""
    head = raw[at] if at < len(raw) else 0
    if head < 0x80:
        start, end = at, at + 1
    else:
        size, start = (head - 0x80) % 0x40, at + 1
        if size > 55:
            start += size - 55
            size = int.from_bytes(raw[at + 1 : start], "big")
        end = start + size
    if end > len(raw):
        raise ValueError("the bytes end too early")
    return head >= 0xC0, start, end


def _number(word: bytes) -> int:
    return int.from_bytes(word, "big")
