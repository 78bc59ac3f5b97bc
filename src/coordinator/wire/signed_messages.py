"""Signatures of the coordinator's own messages: answers, offers and hints (see the protocol page).

One Ed25519 signature a message, for however many answers or offers its body has. It covers the kind of
message, the recipient, the moment, and the body, so that no message passes for another.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import structlog

from coordinator.crypto.keys import SigningKey, check_key_id, decode_base64url, encode_base64url, verify
from coordinator.crypto.mac import message_to_sign

VARIABLE: Final = "COORDINATOR_PUBLIC_KEY"
ANSWER, REFUSAL, OFFER, HINT, DEAD_LETTER = "answer", "refusal", "offer", "hint", "dead letter"
"""Kinds. A refusal answers a message whose sender is not proven."""
DEAD_PREFIX: Final = "coordinator_"
"""Of the signature's headers in a dead letter, whose sender's own signature is left out."""
ANSWER_MS: Final = 300_000
HINT_MS: Final = 60_000
OFFER_MS: Final = 3_600_000
"""How long a message counts; offers on queues with a time to live have that instead."""
SKEW_MS: Final = 60_000
"""Tolerance between the clocks of several coordinators."""
_SIGNATURE, _KEY, _AT, _VALID, _KIND = "signature", "key_id", "signed_at", "valid_ms", "signed_as"


class Untrusted(ValueError):
    """The message is not the coordinator's, or not for this recipient, or old. The text says which."""


class Recipient(NamedTuple):
    """For whom a message is: the kind of message, and the lines that name the recipient."""

    kind: str
    lines: tuple[str, ...]


def answer_to(principal: str, message_id: str, correlation_id: str, signature: str) -> Recipient:
    """The recipient of an answer: the proven sender of exactly this request."""
    return Recipient(ANSWER, (principal, message_id, correlation_id, signature))


def refusal_to(
    claimed: str,
    kind: str,
    message_id: str,
    reply_to: str,
    correlation_id: str,
    signature: str,
    body: bytes,
    issued_at: int | None,
) -> Recipient:
    """The recipient of a refusal: the sender of exactly these bytes, claimed name included.

    Raises ValueError for line breaks.
    """
    request = message_to_sign(kind, message_id, reply_to, correlation_id, body, issued_at)
    return Recipient(REFUSAL, (claimed, signature, hashlib.sha256(request).hexdigest()))


def offer_for(profile: str) -> Recipient:
    """The recipients of offers: the miners of one profile."""
    return Recipient(OFFER, (profile,))


def hint_for(miner_id: str) -> Recipient:
    """The recipient of a hint."""
    return Recipient(HINT, (miner_id,))


def dead_letter(*facts: str) -> Recipient:
    """A message that the coordinator keeps for itself; `facts` are what its headers say."""
    return Recipient(DEAD_LETTER, (hashlib.sha256(json.dumps(facts).encode()).hexdigest(),))


class MessageSigner:
    """Signs with the coordinator's key."""

    def __init__(self, key: SigningKey, now: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        """`now`: Unix milliseconds."""
        self._key = key
        self._now = now

    def headers(self, recipient: Recipient, body: bytes, valid_ms: int) -> dict[str, Any]:
        """The headers of a message with this body."""
        now = self._now()
        signature = self._key.sign(_to_sign(recipient, now, valid_ms, body))
        return {
            _SIGNATURE: encode_base64url(signature),
            _KEY: self._key.key_id,
            _AT: now,
            _VALID: valid_ms,
            _KIND: recipient.kind,
        }

    def made(self, recipient: Recipient, headers: Mapping[str, Any], body: bytes) -> bool:
        """Whether this signer, with the same key, made these headers; however long ago."""
        signature, at, valid = (headers.get(name) for name in (_SIGNATURE, _AT, _VALID))
        if not isinstance(signature, str) or not isinstance(at, int) or not isinstance(valid, int):
            return False
        try:
            raw = decode_base64url(signature)
        except ValueError:
            return False
        return verify(self._key.key_id, raw, _to_sign(recipient, at, valid, body))

    def trust(self) -> CoordinatorTrust:
        """Trust in this key alone."""
        return CoordinatorTrust([self._key.key_id])


class CoordinatorTrust:
    """Which keys are the coordinator's, and what time it is there.

    The time follows from its latest answer, so that this machine's clock may be wrong.
    """

    def __init__(self, keys: Iterable[str] = (), *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Without keys, the key of the first answer is trusted from then on. Raises EncodingError."""
        self._keys = set(keys)
        for key_id in self._keys:
            check_key_id(key_id)
        self._monotonic = monotonic
        self._ahead_ms: float | None = None
        """The coordinator's time minus ours."""
        self._log = structlog.get_logger()

    def check(self, recipient: Recipient, headers: Mapping[str, Any] | None, body: bytes) -> None:
        """Raise Untrusted unless the coordinator signed this body for this recipient, and not long ago."""
        headers = headers or {}
        key_id, signature, at, valid_ms = (headers.get(name) for name in (_KEY, _SIGNATURE, _AT, _VALID))
        if not (isinstance(key_id, str) and isinstance(signature, str)):
            raise Untrusted("it has no signature of the coordinator")
        if not (isinstance(at, int) and isinstance(valid_ms, int)):
            raise Untrusted("it has no moment")
        answers = recipient.kind in (ANSWER, REFUSAL)
        if self._keys and key_id not in self._keys:
            raise Untrusted(f"another key signed it ({key_id}); {VARIABLE} names the coordinator's")
        if not self._keys and not answers:
            raise Untrusted("it came before the first answer, so the coordinator's key is not known")
        try:
            raw = decode_base64url(signature)
        except ValueError:
            raise Untrusted("the signature is not in base64url") from None
        if not verify(key_id, raw, _to_sign(recipient, at, valid_ms, body)):
            raise Untrusted("the signature is not over this message for this recipient")
        local_ms = self._monotonic() * 1000
        if answers:
            # The request's id is random and waits for one answer, so this one can't be an old one.
            self._ahead_ms = at - local_ms
            if not self._keys:
                self._keys.add(key_id)
                self._log.info("coordinator_key_pinned", key_id=key_id)
        elif self._ahead_ms is not None:
            there = local_ms + self._ahead_ms
            if not at - SKEW_MS <= there <= at + valid_ms + SKEW_MS:
                raise Untrusted(f"it is {round((there - at) / 1000)} s old")


def named_kind(headers: Mapping[str, Any] | None) -> str:
    """The kind that a message says it was signed as: which recipient to check; proves nothing."""
    kind = (headers or {}).get(_KIND)
    return kind if isinstance(kind, str) else ""


def read_keys(text: str | None) -> tuple[str, ...]:
    """The keys in COORDINATOR_PUBLIC_KEY, separated by commas. Raises EncodingError."""
    keys = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for key_id in keys:
        check_key_id(key_id)
    return keys


def _to_sign(recipient: Recipient, at: int, valid_ms: int, body: bytes) -> bytes:
    parts = ("coordinator message 1", recipient.kind, *recipient.lines, str(at), str(valid_ms))
    return "\n".join((*parts, hashlib.sha256(body).hexdigest())).encode(errors="surrogatepass")
