"""The secrets of API keys that are created at run time: derived, never stored.

A secret is HMAC-SHA256 over the key's id and a random salt, under a master secret that only coordinators
have. The log holds the salt and a salted digest of the secret. They suffice to check a secret, not to find it
or to sign with it. Secrets have 256 bits, so that one round of SHA-256 is as good as a slow hash here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from uuid import UUID

from coordinator.crypto.keys import SigningKey, encode_base64url

SALT_BYTES = 16
_SECRET = b"coordinator api key 1"
_HMAC_SECRET = b"coordinator api key hmac 1"


class KeySecrets:
    """Derives secrets. All processes of one coordinator need the same master secret."""

    def __init__(self, master: bytes) -> None:
        self._master = master

    @classmethod
    def of(cls, key: SigningKey) -> KeySecrets:
        """With a master secret derived from the key that signs receipts."""
        return cls(hashlib.sha256(_SECRET + b"\n" + key.sign(_SECRET)).digest())

    def secret(self, key_id: UUID, salt: str) -> str:
        """The secret of this key with this salt (hex): 43 characters of base64url."""
        return self._derive(_SECRET, key_id, salt)

    def hmac_secret(self, key_id: UUID, salt: str) -> str:
        """The second secret, which signs HTTP requests and is never sent."""
        return self._derive(_HMAC_SECRET, key_id, salt)

    def _derive(self, label: bytes, key_id: UUID, salt: str) -> str:
        message = label + b"\n" + key_id.bytes + bytes.fromhex(salt)
        return encode_base64url(hmac.new(self._master, message, hashlib.sha256).digest())


def new_salt() -> str:
    """16 random bytes in hex."""
    return secrets.token_hex(SALT_BYTES)


def digest_of(salt: str, secret: bytes) -> str:
    """The digest of a secret in events: SHA-256 over the salt's bytes and the secret, 64 hex digits."""
    return hashlib.sha256(bytes.fromhex(salt) + secret).hexdigest()
