"""Tokens of offers: the proof that an attempt was offered to a profile.

Ids of jobs can be guessed: they follow from the client's name and idempotency key. So a claim has to show the
token of its offer. Tokens are computed and never stored: every process of a coordinator gives the same ones.
"""

from __future__ import annotations

import hashlib
import hmac
from hashlib import blake2b

from coordinator.crypto.keys import SigningKey

TOKEN_BYTES = 12
"""Each guess costs a command."""


class OfferTokens:
    """Makes and checks tokens: keyed BLAKE2b, with a secret that follows from the signing key."""

    def __init__(self, key: SigningKey) -> None:
        label = b"coordinator offers 1\n"
        self._secret = hashlib.sha256(label + key.sign(label)).digest()

    def token(self, job_id: str, attempt: int, profile: str) -> str:
        """The token of the offer of this attempt to this profile."""
        message = f"{job_id}\n{attempt}\n{profile}".encode()
        return blake2b(message, key=self._secret, digest_size=TOKEN_BYTES).hexdigest()

    def fits(self, token: str | None, job_id: str, attempt: int, profile: str) -> bool:
        """Whether this is that token."""
        return token is not None and hmac.compare_digest(token, self.token(job_id, attempt, profile))
