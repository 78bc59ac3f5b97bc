"""A signed transfer on AITBC's chain: the exact JSON that is sent, and the hash by which the chain knows it.

The signature is 65 bytes (r, s, v) of secp256k1 over Keccak-256 of the sorted compact JSON of eight fields.
The hash is SHA-256 of nine, without the signature, so that it is known before anything is sent. A node puts
`amount` into a payload that has none before it checks the signature: the payload has it from the beginning.

Source: oib/AITBC, apps/blockchain-node/src/aitbc_chain: rpc/transactions.py, rpc/utils.py, mempool.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from coordinator.crypto.evm.keccak import keccak256

TRANSFER: Final = "TRANSFER"
_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")


class Transfer(NamedTuple):
    """Money from the signer's account to another one, in the chain's smallest unit."""

    chain_id: str
    to: str
    amount: int
    fee: int
    nonce: int
    reference: str
    """The payout's id; it makes equal transfers of two payouts differ."""


class TransferSigner:
    """Signs with one key. Its repr shows no secret."""

    def __init__(self, key: str) -> None:
        """`key`: 32 bytes in hex. Raises ValueError, whose text shows nothing of it."""
        # Imported here: it is an extra, and slow to load.
        from eth_keys.datatypes import PrivateKey
        from eth_utils.exceptions import ValidationError

        if not _KEY.fullmatch(key):
            raise ValueError("must be a private key of 64 hex digits")
        try:
            self._key = PrivateKey(bytes.fromhex(key.removeprefix("0x")))
            self.address: str = self._key.public_key.to_address()
        except (ValueError, ValidationError):
            raise ValueError("is no key of secp256k1") from None

    def sign(self, transfer: Transfer) -> tuple[bytes, str]:
        """The body of the request, and the transaction's hash. Equal transfers have equal ones."""
        fields = {
            "from": self.address,
            "to": transfer.to,
            "amount": transfer.amount,
            "fee": transfer.fee,
            "nonce": transfer.nonce,
            "type": TRANSFER,
            "payload": {"amount": transfer.amount, "reference": transfer.reference},
            "chain_id": transfer.chain_id,
        }
        signature = self._key.sign_msg_hash(keccak256(_compact(fields)))
        body = _compact({**fields, "signature": "0x" + signature.to_bytes().hex()})
        hashed = _compact({**fields, "value": transfer.amount})
        return body, "0x" + hashlib.sha256(hashed).hexdigest()


def read_transfer(body: bytes) -> Transfer:
    """The transfer that `TransferSigner` signed."""
    fields: Mapping[str, Any] = json.loads(body)
    return Transfer(
        fields["chain_id"],
        fields["to"],
        fields["amount"],
        fields["fee"],
        fields["nonce"],
        fields["payload"]["reference"],
    )


def _compact(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
