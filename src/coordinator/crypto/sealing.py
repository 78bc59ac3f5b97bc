"""Sealed boxes: bytes that only the holder of an Ed25519 key can read (see the protocol page).

X25519 between a fresh key and the holder's, HKDF-SHA256, ChaCha20-Poly1305. The X25519 keys follow from the
Ed25519 ones, so that a miner needs no second key: the public one by the birational map of RFC 7748 (section
4.1), the private one as in RFC 8032 (the clamped first half of SHA-512 of the seed).
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from coordinator.crypto.keys import (
    KEY_BYTES,
    EncodingError,
    SigningKey,
    check_key_id,
    decode_base64url,
    encode_base64url,
)

ALGORITHM: Final = "X25519-HKDF-SHA256-ChaCha20Poly1305"
_INFO: Final = b"coordinator sealed 1"
_P: Final = 2**255 - 19
_NONCE: Final = bytes(12)
"""Constant, because each box has a key of its own."""


class NotSealed(ValueError):
    """This is no box for this key and this context, or it was changed."""


def seal(key_id: str, context: bytes, content: bytes) -> dict[str, str]:
    """A box for the holder of this Ed25519 key; `context` must be the same at the opening.

    Raises EncodingError for an unusable key.
    """
    check_key_id(key_id)
    fresh = X25519PrivateKey.generate()
    ephemeral, recipient = fresh.public_key().public_bytes_raw(), exchange_key(key_id)
    shared = fresh.exchange(X25519PublicKey.from_public_bytes(recipient))
    cipher = ChaCha20Poly1305(_derive(shared, ephemeral, recipient))
    return {
        "alg": ALGORITHM,
        "ephemeral": encode_base64url(ephemeral),
        "content": encode_base64url(cipher.encrypt(_NONCE, content, context)),
    }


def unseal(key: SigningKey, context: bytes, box: Any) -> bytes:
    """The content of a box for this key. Raises NotSealed."""
    try:
        if box["alg"] != ALGORITHM:
            raise NotSealed(f"the box has another algorithm than {ALGORITHM}")
        ephemeral = decode_base64url(box["ephemeral"], KEY_BYTES)
        content = decode_base64url(box["content"])
        private = X25519PrivateKey.from_private_bytes(key.exchange_seed())
        shared = private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        recipient = private.public_key().public_bytes_raw()
        return ChaCha20Poly1305(_derive(shared, ephemeral, recipient)).decrypt(_NONCE, content, context)
    except (KeyError, TypeError, EncodingError, InvalidTag):
        raise NotSealed("not a box for this key and this attempt") from None
    except ValueError as error:  # an all-zero shared secret, for one
        raise NotSealed(str(error)) from None


def attempt_context(job_id: str, attempt: int) -> bytes:
    """The context of a box with an attempt's payload."""
    return f"{job_id}\n{attempt}".encode()


def exchange_key(key_id: str) -> bytes:
    """The X25519 public key of an Ed25519 public key: u = (1 + y) / (1 - y)."""
    y = int.from_bytes(decode_base64url(key_id, KEY_BYTES), "little") & ((1 << 255) - 1)
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(KEY_BYTES, "little")


def _derive(shared: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    salt = hashlib.sha256(ephemeral + recipient).digest()
    return HKDF(SHA256(), 32, salt, _INFO).derive(shared)
