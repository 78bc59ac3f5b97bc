"""Sealed boxes: bytes that only the holder of an Ed25519 key can read (see the protocol page).

X25519 between a fresh key and the holder's, HKDF-SHA256, ChaCha20-Poly1305. The X25519 keys follow from the
Ed25519 ones, so that a miner needs no second key: the public one by the birational map of RFC 7748 (section
4.1), the private one as in RFC 8032 (the clamped first half of SHA-512 of the seed).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, Final

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_sign_ed25519_pk_to_curve25519,
)
from nacl.exceptions import CryptoError

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
_NONCE: Final = bytes(12)
"""Constant, because each box has a key of its own."""


class NotSealed(ValueError):
    """This is no box for this key and this context, or it was changed."""


def seal(key_id: str, context: bytes, content: bytes) -> dict[str, str]:
    """A box for the holder of this Ed25519 key; `context` must be the same at the opening.

    Raises EncodingError for an unusable key.
    """
    recipient = exchange_key(key_id)
    fresh = secrets.token_bytes(KEY_BYTES)
    ephemeral = crypto_scalarmult_base(fresh)
    key = _derive(crypto_scalarmult(fresh, recipient), ephemeral, recipient)
    return {
        "alg": ALGORITHM,
        "ephemeral": encode_base64url(ephemeral),
        "content": encode_base64url(crypto_aead_chacha20poly1305_ietf_encrypt(content, context, _NONCE, key)),
    }


def unseal(key: SigningKey, context: bytes, box: Any) -> bytes:
    """The content of a box for this key. Raises NotSealed."""
    try:
        if box["alg"] != ALGORITHM:
            raise NotSealed(f"the box has another algorithm than {ALGORITHM}")
        ephemeral = decode_base64url(box["ephemeral"], KEY_BYTES)
        content = decode_base64url(box["content"])
        private = key.exchange_secret()
        shared = crypto_scalarmult(private, ephemeral)
        derived = _derive(shared, ephemeral, crypto_scalarmult_base(private))
        return crypto_aead_chacha20poly1305_ietf_decrypt(content, context, _NONCE, derived)
    except (KeyError, TypeError, ValueError, CryptoError):
        raise NotSealed("not a box for this key and this attempt") from None


def attempt_context(job_id: str, attempt: int) -> bytes:
    """The context of a box with an attempt's payload."""
    return f"{job_id}\n{attempt}".encode()


def exchange_key(key_id: str) -> bytes:
    """The X25519 public key of an Ed25519 public key: u = (1 + y) / (1 - y). Raises EncodingError."""
    check_key_id(key_id)
    try:
        return crypto_sign_ed25519_pk_to_curve25519(decode_base64url(key_id, KEY_BYTES))
    except CryptoError:
        raise EncodingError("this public key is no point of the curve; create a new key") from None


def _derive(shared: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) with one block of output."""
    salt = hashlib.sha256(ephemeral + recipient).digest()
    extracted = hmac.digest(salt, shared, "sha256")
    return hmac.digest(extracted, _INFO + b"\x01", "sha256")
