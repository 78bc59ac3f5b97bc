"""AITBC's signatures of receipts, written again from their description, with nothing of ours."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def aitbc_bytes(receipt: dict[str, Any]) -> bytes:
    def drop(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: drop(member) for name, member in item.items() if member is not None}
        if isinstance(item, list):
            return [drop(element) for element in item if element is not None]
        return item

    covered = {name: member for name, member in receipt.items() if name not in ("signature", "attestations")}
    return json.dumps(drop(covered), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def aitbc_signature(seed: bytes, receipt: dict[str, Any]) -> dict[str, str]:
    def text(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes_raw()
    return {"alg": "Ed25519", "key_id": text(public), "sig": text(key.sign(aitbc_bytes(receipt)))}


def aitbc_accepts(receipt: dict[str, Any]) -> bool:
    """True if the signature and every attestation verify with the keys they name, as AITBC checks them."""
    for signature in [receipt["signature"], *receipt["attestations"]]:
        public = base64.urlsafe_b64decode(signature["key_id"] + "=" * (-len(signature["key_id"]) % 4))
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(
                base64.urlsafe_b64decode(signature["sig"] + "=="), aitbc_bytes(receipt)
            )
        except InvalidSignature:
            return False
    return True
