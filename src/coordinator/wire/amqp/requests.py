"""The messages of one sender that wait for an answer: their signatures, and the check of their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.wire.amqp.batching import OutgoingMessage
from coordinator.wire.signed_messages import (
    REFUSAL,
    CoordinatorTrust,
    Untrusted,
    answer_to,
    named_kind,
    refusal_to,
)
from coordinator.wire.topology import DIRECT_REPLY

MIN_KEPT: Final = 1000
SIGN_AGAIN_MS: Final = 300_000
"""A repeat after this has a moment of its own: the coordinator refuses some commands that are old."""


class _Sent(NamedTuple):
    message: OutgoingMessage
    issued_at: int
    signature: str


class Requests:
    """Signs messages with an API key's secret, and checks that an answer is the coordinator's."""

    def __init__(self, principal: str, secret: str, trust: CoordinatorTrust) -> None:
        self._principal = principal
        self._secret = secret
        self._trust = trust
        self._sent: dict[str, _Sent] = {}
        self._limit = MIN_KEPT

    def sign(self, message: OutgoingMessage) -> tuple[int, str]:
        """The moment and the signature of a message: a repeat has those of the first try for a while.

        So the answer to either is known.
        """
        now = time.time_ns() // 1_000_000
        before = self._sent.get(message.id)
        if before is not None and now - before.issued_at < SIGN_AGAIN_MS:
            return before.issued_at, before.signature
        text = message_to_sign(message.kind, message.id, DIRECT_REPLY, message.id, message.body, now)
        signature = sign_message(self._secret, text)
        self._sent[message.id] = _Sent(message, now, signature)
        return now, signature

    def check(self, message_id: str, headers: Mapping[str, Any] | None, body: bytes) -> bool:
        """Whether this answers a waiting message. Raises Untrusted unless the coordinator signed it."""
        sent = self._sent.get(message_id)
        if sent is None:
            return False  # a second answer, or one that nobody waits for any more
        message, signature = sent.message, sent.signature
        if named_kind(headers) == REFUSAL:
            recipient = refusal_to(
                self._principal,
                message.kind,
                message.id,
                DIRECT_REPLY,
                message.id,
                signature,
                message.body,
                sent.issued_at,
            )
        else:
            recipient = answer_to(self._principal, message.id, message.id, signature)
        try:
            self._trust.check(recipient, headers, body)
        except Untrusted as error:
            raise Untrusted(f"{error}: the answer to a {message.kind}") from None
        self._sent.pop(message_id, None)
        return True

    def forget(self, message_id: str) -> None:
        """Nobody waits for this answer any more."""
        self._sent.pop(message_id, None)

    def prune(self, waits: Callable[[str], bool]) -> None:
        """Forget the messages for whose answer nobody waits; cheap if there are few."""
        if len(self._sent) > 2 * self._limit:
            self._sent = {message_id: sent for message_id, sent in self._sent.items() if waits(message_id)}
            self._limit = max(MIN_KEPT, len(self._sent))
