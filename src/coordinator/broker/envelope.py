"""Received messages: their properties, their sender, and the items in their bodies.

Pure functions over the message: nothing here talks to the broker or the gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError

from coordinator.application.background import Turns
from coordinator.application.commands.parsing import check_sender, parse_command, parse_json
from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import Intent
from coordinator.crypto.mac import message_to_sign
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobSubmit
from coordinator.domain.messages import Principal, Role, read_traceparent
from coordinator.domain.miner import MinerDrain
from coordinator.domain.registry import COMMANDS
from coordinator.validation import describe_invalid
from coordinator.wire.answers import Answer, Refused
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.limits import MAX_ARRAY_LENGTH, MAX_BODY_BYTES, MAX_TURN_BYTES
from coordinator.wire.signed_messages import Recipient, answer_to, refusal_to
from coordinator.wire.topology import (
    COMMANDS_QUEUE,
    DIRECT_REPLY,
    HEARTBEAT_TYPE,
    PROGRESS_TYPE,
    RESERVED_PREFIXES,
)

DELIVERY_COUNT = "x-delivery-count"

NOT_REPEATABLE: Final = frozenset(
    {
        "miner.register",
        "service.register",
        "service.revise",
        "service.retire",
        "quota.set",
        "standing.quarantine",
        "standing.release",
    }
)
"""Commands whose repeat, long after, would change something: they carry a moment. Others name a session, an
attempt or a job, or end something for good."""
MAX_AGE_MS: Final = 15 * 60_000

_SENDERS: Final = {HEARTBEAT_TYPE: (Role.MINER,), PROGRESS_TYPE: (Role.MINER,)}
"""The roles that send what is not a command."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message's properties and body, not authenticated yet."""

    kind: str
    """The command's type: the property, or else the routing key."""
    message_id: str
    """Empty if absent, like the next four."""
    correlation_id: str
    reply_to: str
    principal: str
    signature: str = field(repr=False)
    issued_at: int | None
    """When it was made, in Unix milliseconds, as the sender says and signs."""
    traceparent: str | None
    routing_key: str
    user_id: str
    """The user of the sender's connection, which the broker has checked; empty if absent."""
    forwarded: bool
    """Whether a queue passed it on as a dead letter: its routing key is then not the sender's."""
    deliveries: int
    """Earlier deliveries, if the broker counts them (quorum queues do); 0 otherwise."""
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, message: AbstractIncomingMessage) -> ReceivedMessage:
        headers = message.headers
        deliveries = headers.get(DELIVERY_COUNT)
        routing_key = message.routing_key or ""
        return cls(
            kind=message.type or routing_key,
            message_id=message.message_id or "",
            correlation_id=message.correlation_id or "",
            reply_to=message.reply_to or "",
            principal=_text(headers.get("principal")),
            signature=_text(headers.get("signature")),
            issued_at=issued_at if isinstance(issued_at := headers.get("issued_at"), int) else None,
            traceparent=read_traceparent(headers.get("traceparent")),
            routing_key=routing_key,
            user_id=message.user_id or "",
            forwarded="x-death" in headers,
            deliveries=deliveries if isinstance(deliveries, int) else 0,
            body=message.body,
        )

    @property
    def signed_reply_to(self) -> str:
        """`reply_to` as the sender wrote it: the broker appends an address to the name of a direct reply."""
        return DIRECT_REPLY if self.reply_to.startswith(f"{DIRECT_REPLY}.") else self.reply_to

    @property
    def answerable(self) -> bool:
        """Whether the sender asks for a reply, in a queue that is not one of the coordinator's."""
        return bool(self.reply_to) and not self.reply_to.startswith(RESERVED_PREFIXES)

    def recipient(self, principal: Principal | None) -> Recipient:
        """The recipient of the reply; without a principal the sender is not proven. Raises ValueError."""
        if principal is not None:
            return answer_to(principal.name, self.message_id, self.correlation_id, self.signature)
        return refusal_to(
            self.principal,
            self.kind,
            self.message_id,
            self.signed_reply_to,
            self.correlation_id,
            self.signature,
            self.body,
            self.issued_at,
        )

    @property
    def replies_directly(self) -> bool:
        """Whether the reply goes straight to the channel that asks, and so to nobody else."""
        return self.signed_reply_to == DIRECT_REPLY


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class ReceivedBatch(Generic[Item]):
    """The elements of a body: valid items, and refusals of the invalid ones."""

    items: Sequence[Item]
    refused: dict[int, Refused]
    """By index in the body."""
    is_array: bool

    def answers(self, of_items: Sequence[Answer]) -> list[Answer]:
        """All answers in the order of the body."""
        if not self.refused:
            return list(of_items)
        rest = iter(of_items)
        total = len(self.items) + len(self.refused)
        return [self.refused[i] if i in self.refused else next(rest) for i in range(total)]


def authenticate(envelope: ReceivedMessage, keyring: Keyring, *, by_user: bool = False) -> Principal:
    """The proven sender of a message that may be handled. Raises Refusal, as `prove` and `check` do."""
    principal = prove(envelope, keyring, by_user=by_user)
    check(envelope, by_user=by_user)
    return principal


def prove(envelope: ReceivedMessage, keyring: Keyring, *, by_user: bool = False) -> Principal:
    """The proven sender. Raises Refusal (TOO_LARGE, UNAUTHORIZED_KEY, INVALID_PAYLOAD).

    `by_user`: API keys are users of the broker, so the property `user_id` is the proof, and nothing else is.
    """
    if len(envelope.body) > MAX_BODY_BYTES:  # before the work of checking its signature
        raise Refusal(
            Code.TOO_LARGE, f"the body has {len(envelope.body)} bytes; the limit is {MAX_BODY_BYTES}"
        )
    return _by_user(envelope, keyring) if by_user else _by_signature(envelope, keyring)


def check(envelope: ReceivedMessage, *, by_user: bool = False) -> None:
    """Look at the rest of what a proven sender sent beside the body. Raises Refusal (INVALID_PAYLOAD)."""
    if not by_user and envelope.kind in NOT_REPEATABLE:
        _check_moment(envelope)
    if envelope.reply_to and not envelope.answerable:
        raise Refusal(Code.INVALID_PAYLOAD, "reply_to names a queue of the coordinator; use one of your own")
    if not envelope.message_id.isprintable():
        raise Refusal(Code.INVALID_PAYLOAD, "the message_id has unprintable characters")


def _by_user(envelope: ReceivedMessage, keyring: Keyring) -> Principal:
    if not envelope.user_id:
        raise Refusal(Code.UNAUTHORIZED_KEY, "send the property user_id: the name in your API key")
    grants = keyring.valid(envelope.user_id)
    if not grants:
        raise Refusal(Code.UNAUTHORIZED_KEY, "no valid API key has the name of this user")
    # The broker has let this routing key pass for one of the name's roles; the type must be the same.
    if envelope.kind not in (envelope.routing_key, PROGRESS_TYPE):
        raise Refusal(Code.INVALID_PAYLOAD, "the type and the routing key differ; send the type as both")
    if envelope.reply_to and not envelope.replies_directly:
        raise Refusal(Code.INVALID_PAYLOAD, f"reply_to must be {DIRECT_REPLY}")
    command = COMMANDS.get(envelope.kind)
    roles = _SENDERS.get(envelope.kind, ()) if command is None else command.senders
    return next((g.principal for g in grants if g.principal.role in roles), grants[0].principal)


def _by_signature(envelope: ReceivedMessage, keyring: Keyring) -> Principal:
    if not envelope.principal or not envelope.signature:
        raise Refusal(
            Code.UNAUTHORIZED_KEY, "send the headers principal and signature; see the protocol page"
        )
    # The signature covers the type in use: otherwise a copy of a message, published under another routing
    # key, would be another command.
    try:
        signed = message_to_sign(
            envelope.kind,
            envelope.message_id,
            envelope.signed_reply_to,
            envelope.correlation_id,
            envelope.body,
            envelope.issued_at,
        )
    except ValueError as error:
        raise Refusal(Code.UNAUTHORIZED_KEY, str(error)) from None
    principal = keyring.by_signature(envelope.principal, envelope.signature, signed)
    if principal is None:
        raise Refusal(
            Code.UNAUTHORIZED_KEY,
            "invalid signature; check the key's name, its secret and the signed bytes",
        )
    return principal


def _check_moment(envelope: ReceivedMessage) -> None:
    """Raise Refusal for a command without a moment, or an old one.

    Whoever may read the queues could send a copy of it again, and bring back an earlier state.
    """
    if envelope.issued_at is None:
        raise Refusal(
            Code.INVALID_PAYLOAD, f"{envelope.kind} needs the header issued_at; see the protocol page"
        )
    age_ms = time.time_ns() // 1_000_000 - envelope.issued_at
    if abs(age_ms) > MAX_AGE_MS:
        raise Refusal(
            Code.INVALID_PAYLOAD,
            f"issued_at is {age_ms // 1000} s ago by the coordinator's clock; set yours, and sign it anew",
        )


async def read_commands(envelope: ReceivedMessage, principal: Principal) -> ReceivedBatch[Intent]:
    """The commands in a body. Raises Refusal if the whole body is invalid."""
    kind = COMMANDS.get(envelope.kind)
    if kind is None:
        raise Refusal(Code.UNKNOWN_COMMAND, "no such command type; the protocol page lists all types")
    if kind.discloses:
        raise Refusal(Code.FORBIDDEN, "its answer has a secret, which no queue may hold: send it over HTTP")

    def read(value: Any, message_id: str | None) -> Intent:
        command = parse_command(envelope.kind, value)
        check_sender(command, principal)
        if isinstance(command, MinerDrain) and command.session_id is None:
            # A message can be copied and sent again: it may not drain a session that it was not meant for.
            raise Refusal(Code.INVALID_PAYLOAD, "session_id: over AMQP it names the session to drain")
        if isinstance(command, JobSubmit) and command.idempotency_key is None and message_id is None:
            raise Refusal(
                Code.INVALID_PAYLOAD,
                "a submit needs an idempotency_key or a message_id: the broker may deliver one message twice",
            )
        return Intent(command, principal, message_id, envelope.traceparent, COMMANDS_QUEUE)

    return await _read(envelope, read)


async def read_heartbeats(envelope: ReceivedMessage, principal: Principal) -> ReceivedBatch[Heartbeat]:
    """The heartbeats in a body. Raises Refusal if the whole body is invalid."""
    if envelope.kind not in (HEARTBEAT_TYPE, envelope.routing_key):
        raise Refusal(Code.UNKNOWN_COMMAND, f"this queue takes {HEARTBEAT_TYPE} only")
    if principal.role is not Role.MINER:
        raise Refusal(Code.FORBIDDEN, f"a {principal.role.value} key can't send {HEARTBEAT_TYPE}")

    def read(value: Any, _: str | None) -> Heartbeat:
        try:
            return Heartbeat.model_validate(value)
        except ValidationError as error:
            raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None

    return await _read(envelope, read)


async def _read(envelope: ReceivedMessage, read: Callable[[Any, str | None], Item]) -> ReceivedBatch[Item]:
    value = parse_json(envelope.body)
    if len(envelope.body) > MAX_TURN_BYTES:
        await asyncio.sleep(0)  # a large body's parsing was a turn of its own
    message_id = envelope.message_id or None
    if isinstance(value, dict):
        return ReceivedBatch([read(value, message_id)], {}, is_array=False)
    if not isinstance(value, list) or not value:
        raise Refusal(Code.INVALID_PAYLOAD, "the body must be an object, or an array of objects")
    if len(value) > MAX_ARRAY_LENGTH:
        raise Refusal(Code.TOO_LARGE, f"the array has {len(value)} elements; the limit is {MAX_ARRAY_LENGTH}")
    items: list[Item] = []
    refused: dict[int, Refused] = {}
    turns = Turns()
    for index, element in enumerate(value):
        if turns.over():
            await asyncio.sleep(0)
        try:
            items.append(read(element, message_id and f"{message_id}:{index}"))
        except Refusal as refusal:
            refused[index] = Refused(refusal.code, refusal.detail)
    return ReceivedBatch(items, refused, is_array=True)
