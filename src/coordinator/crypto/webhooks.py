"""Signatures of messages to receivers, by the Standard Webhooks specification, and what they need.

The secrets are derived, never stored: HMAC-SHA256 under a master that follows from the coordinator's signing
key, over the webhook's id and the secret's generation. URLs are sealed under such a master, too, because a
URL may itself be a secret: XChaCha20-Poly1305 with a random nonce.

A message carries one signature for each signing key that the process holds (the current one and retired ones)
and for each generation that is valid: a receiver's secret outlives a change of the signing key.

Source: https://www.standardwebhooks.com, "Signature scheme": `v1` is HMAC-SHA256 under the 32 bytes of a
`whsec_` secret, `v1a` is Ed25519 under a `whpk_` public key, both over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Collection, Iterable, Mapping
from typing import Final
from uuid import UUID

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from coordinator.crypto.keys import EncodingError, SigningKey, decode_base64url, encode_base64url

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
PUBLIC_KEY_PREFIX: Final = "whpk_"
_MASTER: Final = b"coordinator webhooks 1"
_SECRET: Final = b"secret"
_SEED: Final = b"ed25519"
_SEAL: Final = b"seal"
_FORM: Final = "k1"
_NONCE_BYTES: Final = 24


class CannotUnseal(ValueError):
    """Sealed under a signing key that this process does not hold, for another purpose, or changed."""


class WebhookKeys:
    """Derives secrets, signs messages and seals URLs. Its repr shows no secret."""

    def __init__(self, current: SigningKey, retired: Iterable[SigningKey] = ()) -> None:
        """`current` seals, and makes the secrets that are shown; `retired` keys sign and unseal, too."""
        self._current = current.key_id
        self._masters = {key.key_id: _master_of(key) for key in (current, *retired)}

    # --- secrets --------------------------------------------------------------------------------------------
    def secret(self, webhook_id: UUID, generation: int) -> str:
        """The secret that a receiver verifies `v1` signatures with: `whsec_` and 32 bytes in base64."""
        key = self._key(self._current, _SECRET, webhook_id, generation)
        return SECRET_PREFIX + base64.b64encode(key).decode()

    def public_key(self, webhook_id: UUID, generation: int) -> str:
        """The key that a receiver verifies `v1a` signatures with: `whpk_` and 32 bytes in base64."""
        signer = SigningKey(self._key(self._current, _SEED, webhook_id, generation))
        public = decode_base64url(signer.key_id)
        return PUBLIC_KEY_PREFIX + base64.b64encode(public).decode()

    def sign(
        self, webhook_id: UUID, generations: Collection[int], message_id: str, timestamp: int, body: bytes
    ) -> dict[str, str]:
        """The three headers of a message. `timestamp`: Unix seconds of this try."""
        signed = f"{message_id}.{timestamp}.".encode() + body
        signatures = []
        for generation in generations:
            for key_id in dict.fromkeys((self._current, *self._masters)):
                mac = hmac.digest(self._key(key_id, _SECRET, webhook_id, generation), signed, "sha256")
                signatures.append(f"v1,{base64.b64encode(mac).decode()}")
                signer = SigningKey(self._key(key_id, _SEED, webhook_id, generation))
                signatures.append(f"v1a,{base64.b64encode(signer.sign(signed)).decode()}")
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
        }

    # --- URLs -----------------------------------------------------------------------------------------------
    def seal(self, purpose: str, text: str) -> str:
        """The text, for holders of the signing key alone. `purpose` must be the same to read it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        key = _derive(self._masters[self._current], _SEAL)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(text.encode(), purpose.encode(), nonce, key)
        return f"{_FORM}.{self._current}.{encode_base64url(nonce + sealed)}"

    def unseal(self, purpose: str, sealed: str) -> str:
        """The text of `seal`. Raises CannotUnseal."""
        form, _, rest = sealed.partition(".")
        key_id, _, text = rest.partition(".")
        master = self._masters.get(key_id)
        if form != _FORM or master is None:
            raise CannotUnseal("sealed under a signing key that is gone: give the URL again")
        try:
            box = decode_base64url(text)
            plain = crypto_aead_xchacha20poly1305_ietf_decrypt(
                box[_NONCE_BYTES:], purpose.encode(), box[:_NONCE_BYTES], _derive(master, _SEAL)
            )
        except (EncodingError, CryptoError, ValueError):
            raise CannotUnseal("not sealed by this coordinator for this: give the URL again") from None
        return plain.decode()

    def _key(self, key_id: str, kind: bytes, webhook_id: UUID, generation: int) -> bytes:
        return _derive(self._masters[key_id], kind, webhook_id.bytes, str(generation).encode())


def purpose_of_webhook(webhook_id: UUID) -> str:
    """The purpose of a webhook's sealed URL."""
    return f"webhook {webhook_id}"


def purpose_of_callback(job_id: UUID) -> str:
    """The purpose of the sealed URL that a job names."""
    return f"callback {job_id}"


def headers_as_sent(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as an HTTP library takes them."""
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _master_of(key: SigningKey) -> bytes:
    return hashlib.sha256(_MASTER + b"\n" + key.sign(_MASTER)).digest()


def _derive(master: bytes, kind: bytes, *parts: bytes) -> bytes:
    return hmac.digest(master, b"\n".join((_MASTER, kind, *parts)), "sha256")
