"""A message of the queue of dead letters, read: what it was, why it is there, and who sent it."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from aio_pika.abc import AbstractIncomingMessage

from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import ReplayableLetter
from coordinator.broker.envelope import ReceivedMessage, authenticate
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal
from coordinator.domain.registry import COMMANDS
from coordinator.wire.signed_messages import DEAD_PREFIX, MessageSigner, dead_letter

TOLD: Final = ("reason", "code", "routing_key", "principal", "role", "message_id")
"""Headers of a dead letter of ours, in the order in which they are signed."""
NOT_PROVEN: Final = frozenset({Code.UNAUTHORIZED_KEY.value, Code.TOO_LARGE.value})
"""Refusals that come before the sender is proven."""
BROKERS_OWN = "DELIVERY_LIMIT"
"""The code of a letter that the broker itself has put there."""


class LetterReader:
    """Reads letters. One of ours is proven by our signature, one of the broker's own by its sender's."""

    def __init__(self, keyring: Keyring, signer: MessageSigner, *, by_user: bool) -> None:
        self._keyring = keyring
        self._signer = signer
        self._by_user = by_user

    def read(self, message: AbstractIncomingMessage) -> ReplayableLetter:
        """What the message says. All of it comes from strangers."""
        headers: dict[str, Any] = dict(message.headers)
        told = {name: value if isinstance(value := headers.get(name), str) else "" for name in TOLD}
        kind = message.type or ""
        ours = {
            name.removeprefix(DEAD_PREFIX): value
            for name, value in headers.items()
            if name.startswith(DEAD_PREFIX)
        }
        own = self._signer.made(dead_letter(kind, *told.values()), ours, message.body)
        at = ours.get("signed_at") if own else None
        proven = own and told["code"] not in NOT_PROVEN
        if not own and "x-death" in headers and not told["code"]:
            told["code"] = BROKERS_OWN
            told["reason"] = "it could not be handled for three quarters of an hour"
            told["message_id"] = message.message_id or ""
            told["routing_key"] = message.routing_key or ""
            sender = self._authentic(message)
            proven = sender is not None
            told["role"] = "" if sender is None else sender.role.value
        return ReplayableLetter(
            id=_id_of(kind, told, message.body),
            type=kind or told["routing_key"],
            routing_key=told["routing_key"],
            code=told["code"],
            reason=told["reason"],
            principal=told["principal"],
            role=told["role"] if proven else "",
            proven=proven,
            at=at if isinstance(at, int) else None,
            message_id=told["message_id"],
            body=message.body,
        )

    def _authentic(self, message: AbstractIncomingMessage) -> Principal | None:
        try:
            return authenticate(ReceivedMessage.of(message), self._keyring, by_user=self._by_user)
        except Refusal:
            return None


def sender_of(letter: ReplayableLetter, keyring: Keyring) -> Principal:
    """The sender in the role of its key; if unproven, in one that may send the command. Raises Refusal.

    A name may have keys of several roles: what a client's key sent takes no effect as an admin's.
    """
    command = COMMANDS.get(letter.type)
    if command is None:
        raise Refusal(Code.UNKNOWN_COMMAND, "no such command type: drop the letter")
    valid = [grant.principal for grant in keyring.valid(letter.principal)]
    if letter.proven and not letter.role and len({principal.role for principal in valid}) > 1:
        # Refused between the proof and the command, for its moment or its properties.
        raise Refusal(Code.UNAUTHORIZED_KEY, "its sender's name has keys of several roles: it sends it again")
    if letter.proven and letter.role:
        valid = [principal for principal in valid if principal.role.value == letter.role]
    if not valid:
        raise Refusal(Code.UNAUTHORIZED_KEY, "no valid API key has the sender's name and role any more")
    return next((principal for principal in valid if principal.role in command.senders), valid[0])


def _id_of(kind: str, told: dict[str, str], body: bytes) -> str:
    facts = [kind, *(told[name] for name in ("routing_key", "principal", "message_id", "code"))]
    return hashlib.sha256(json.dumps(facts).encode() + body).hexdigest()[:20]
