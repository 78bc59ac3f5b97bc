"""The key that sends the roots: its address, and transactions signed by it (EIP-1559)."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from eth_account import Account

GWEI: Final = 10**9
_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")


class Fees(NamedTuple):
    """The price of gas, in wei."""

    most: int
    """For all of it; unused parts stay with the sender."""
    tip: int
    """For the block's proposer."""


class SignedTransaction(NamedTuple):
    """The exact bytes, and the hash by which the chain knows them."""

    raw: bytes
    hash: str


class SentTransaction(NamedTuple):
    """The facts of a signed transaction."""

    nonce: int
    gas: int
    data: bytes
    fees: Fees


class EvmSigner:
    """Signs with one key. Its repr shows no secret."""

    def __init__(self, key: str) -> None:
        """`key`: 32 bytes in hex. Raises ValueError, whose text shows nothing of it."""
        if (fault := key_fault(key)) is not None:
            raise ValueError(fault)
        try:
            self._account = _library().from_key(bytes.fromhex(key.removeprefix("0x")))
        except Exception:
            raise ValueError("is no key of secp256k1") from None
        self.address: str = self._account.address

    def sign(
        self, *, chain_id: int, nonce: int, to: str | None, data: bytes, gas: int, fees: Fees
    ) -> SignedTransaction:
        """A transaction that moves no coins; `to` None creates a contract. Equal facts make equal bytes."""
        facts: dict[str, Any] = {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            "value": 0,
            "data": data,
            "gas": gas,
            "maxFeePerGas": fees.most,
            "maxPriorityFeePerGas": fees.tip,
        }
        signed = self._account.sign_transaction(facts if to is None else {**facts, "to": to})
        return SignedTransaction(bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex())


def _library() -> type[Account]:
    # Imported here: it is an extra, and slow to load. A library below it lifts the interpreter's limit of
    # recursion to 100,000, with which deep JSON from anybody would end the process.
    limit = sys.getrecursionlimit()
    try:
        from eth_account import Account
    finally:
        sys.setrecursionlimit(limit)
    return Account


def read_transaction(raw: bytes) -> SentTransaction:
    """The facts of a transaction that `EvmSigner` signed."""
    import rlp

    # 0x02 ‖ rlp([chain id, nonce, tip, most, gas, to, value, data, …]): EIP-1559.
    _, nonce, tip, most, gas, _, _, data, *_ = rlp.decode(raw[1:])
    fees = Fees(int.from_bytes(most, "big"), int.from_bytes(tip, "big"))
    return SentTransaction(int.from_bytes(nonce, "big"), int.from_bytes(gas, "big"), data, fees)


def key_fault(key: str) -> str | None:
    """Why this is no private key; None if it may be one. The text shows nothing of it."""
    return None if _KEY.fullmatch(key) else "must be a private key of 64 hex digits"
