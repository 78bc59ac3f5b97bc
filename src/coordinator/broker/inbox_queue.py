"""One queue of the inbox: each message is authenticated, read, handled, answered and acknowledged."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import structlog
from aio_pika.exceptions import AMQPError
from faststream.rabbit.message import RabbitMessage
from pamqp.commands import Basic
from pydantic_core import to_json

from coordinator.application.keys.keyring import Keyring
from coordinator.broker.acknowledgements import Acknowledgements
from coordinator.broker.connection import Broker
from coordinator.broker.envelope import ReceivedBatch, ReceivedMessage, authenticate
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal
from coordinator.domain.registry import COMMANDS
from coordinator.wire.answers import Answer, Refused
from coordinator.wire.signed_messages import ANSWER_MS, DEAD_PREFIX, MessageSigner, dead_letter
from coordinator.wire.topology import DEAD_EXCHANGE, HEARTBEAT_TYPE

FIRST_REDELIVERY_SECONDS = 0.5
LAST_REDELIVERY_SECONDS = 60.0
SHORT_BYTES = 255

Item = TypeVar("Item")

log = structlog.get_logger(__name__)


def retry_delay(deliveries: int) -> float:
    """Seconds until a message that can't be handled now goes back to its queue."""
    return float(min(FIRST_REDELIVERY_SECONDS * 2.0 ** min(deliveries, 16), LAST_REDELIVERY_SECONDS))


@dataclass(frozen=True, slots=True)
class InboxParts:
    """The parts that both queues use."""

    broker: Broker
    keyring: Keyring
    signer: MessageSigner
    by_user: bool
    acknowledgements: Acknowledgements
    stopping: asyncio.Event
    handle_timeout: float


class InboxQueue(Generic[Item]):
    """One queue: the reader of its messages' bodies, and the handler of their items."""

    def __init__(
        self,
        name: Literal["commands", "heartbeats"],
        shared: InboxParts,
        read: Callable[[ReceivedMessage, Principal], Awaitable[ReceivedBatch[Item]]],
        ask: Callable[[Principal, Sequence[Item]], Awaitable[list[Answer]]],
    ) -> None:
        self._name = name
        self._shared = shared
        self._read = read
        self._ask = ask
        self.dead_letters: Counter[str] = Counter()
        """Messages that could not be handled since the start, by code."""

    async def receive(self, message: RabbitMessage) -> None:
        """Handle one message completely. Raises only the cancellation of a closing channel."""
        envelope = ReceivedMessage.of(message.raw_message)
        try:
            await self._handle(message, envelope)
        except (AMQPError, ConnectionError) as error:
            log.info("inbox.channel_closed", reason=str(error))  # the message is delivered again
        except Exception:
            log.exception("inbox.failed", queue=self._name, kind=envelope.kind)
            await self._give_back(message, envelope)

    async def _handle(self, message: RabbitMessage, envelope: ReceivedMessage) -> None:
        principal: Principal | None = None
        try:
            principal = authenticate(envelope, self._shared.keyring, by_user=self._shared.by_user)
            batch = await self._read(envelope, principal)
        except Refusal as refusal:
            refused = Refused(refusal.code, refusal.detail)
            await self._dead_letter(message, envelope, refused, principal)
            return
        answers = batch.answers(await self._answers(envelope, principal, batch.items))
        if self._answerable(envelope):
            await self._reply(envelope, answers, batch.is_array, principal)
            await self._shared.acknowledgements.ack(message.raw_message)
            return
        codes = {answer.code for answer in answers if isinstance(answer, Refused)}
        if Code.UNAVAILABLE in codes and self._name == "commands":
            await self._give_back(message, envelope)
        elif Code.INTERNAL in codes and self._name == "commands":
            await self._dead_letter(
                message,
                envelope,
                Refused(Code.INTERNAL, "internal error; send it again after the fix"),
                principal,
            )
        else:
            if codes:
                log.info(
                    "inbox.refused_without_reply", kind=envelope.kind, by=principal.name, codes=sorted(codes)
                )
            await self._shared.acknowledgements.ack(message.raw_message)

    async def _answers(
        self, envelope: ReceivedMessage, principal: Principal, items: Sequence[Item]
    ) -> list[Answer]:
        if not items:
            return []
        try:
            async with asyncio.timeout(self._shared.handle_timeout):
                answers = await self._ask(principal, items)
        except TimeoutError:
            log.error("inbox.gateway_timeout", kind=envelope.kind, seconds=self._shared.handle_timeout)
            refused = Refused(Code.UNAVAILABLE, "no answer from the log in time; send it again")
            return [refused] * len(items)
        except Exception:
            log.exception("inbox.gateway_raised", kind=envelope.kind)
            return [Refused(Code.INTERNAL, "internal error; send it again later")] * len(items)
        if len(answers) != len(items):
            log.error("inbox.gateway_miscounted", kind=envelope.kind, asked=len(items), answered=len(answers))
            return [Refused(Code.INTERNAL, "internal error; send it again later")] * len(items)
        return answers

    def _answerable(self, envelope: ReceivedMessage) -> bool:
        """Whether a reply goes to the sender, and not to a queue that it could not reach itself."""
        return envelope.answerable and (not self._shared.by_user or envelope.replies_directly)

    async def _reply(
        self,
        envelope: ReceivedMessage,
        answers: Sequence[Answer],
        is_array: bool,
        principal: Principal | None,
    ) -> None:
        wire: Any = [answer.to_wire() for answer in answers]
        body = to_json(wire if is_array else wire[0])
        try:
            recipient = envelope.recipient(principal)
        except ValueError:
            headers = None  # a line break in a property: no signature could say for whom this is
        else:
            headers = self._shared.signer.headers(recipient, body, ANSWER_MS)
        properties = Basic.Properties(
            content_type="application/json",
            correlation_id=envelope.correlation_id or None,
            delivery_mode=1,
            headers=headers,
        )
        await self._shared.broker.publish_unconfirmed("", envelope.reply_to, body, properties)

    async def _dead_letter(
        self,
        message: RabbitMessage,
        envelope: ReceivedMessage,
        refused: Refused,
        principal: Principal | None,
    ) -> None:
        """Answer, copy to the dead letters, acknowledge: in this order, so that a crash loses nothing."""
        claimed = envelope.user_id if self._shared.by_user else envelope.principal
        stray = envelope.forwarded or envelope.routing_key not in (*COMMANDS, HEARTBEAT_TYPE)
        if self._shared.by_user and stray:
            # No sender may publish this: it came over a binding between exchanges, or as a dead letter of a
            # queue, that a reader of events made. Kept, copies of events would fill the dead letters.
            log.warning("inbox.stray", kind=envelope.kind[:100], routing_key=envelope.routing_key[:100])
            await self._shared.acknowledgements.ack(message.raw_message)
            return
        log.warning(
            "inbox.dead_letter",
            queue=self._name,
            kind=envelope.kind[:100],
            claimed=claimed[:100],
            code=refused.code,
            detail=refused.detail,
        )
        if self._answerable(envelope):
            await self._reply(envelope, [refused], is_array=False, principal=principal)
        told = {
            "reason": refused.detail,
            "code": refused.code.value,
            "routing_key": envelope.routing_key,
            "principal": _short(claimed),
            "role": "" if principal is None else principal.role.value,
            "message_id": envelope.message_id,
        }
        kind = _short(envelope.kind)
        ours = self._shared.signer.headers(dead_letter(kind, *told.values()), envelope.body, 0)
        properties = Basic.Properties(
            content_type=_short(message.raw_message.content_type or ""),
            message_type=kind,
            delivery_mode=2,
            # Without the sender's signature, which would allow a replay, and without the user id, which the
            # broker checks against our own. With ours: others may write to this queue, too.
            headers={**told, **{f"{DEAD_PREFIX}{name}": value for name, value in ours.items()}},
        )
        outcome = await self._shared.broker.publish(
            DEAD_EXCHANGE, _short(envelope.routing_key), envelope.body, properties, mandatory=True
        )
        if outcome == "confirmed":
            self.dead_letters[refused.code.value] += 1
            await self._shared.acknowledgements.ack(message.raw_message)
        else:
            await self._give_back(message, envelope)

    async def _give_back(self, message: RabbitMessage, envelope: ReceivedMessage) -> None:
        """Return the message to its queue, after a delay that grows with each delivery.

        The broker's delivery limit ends it.
        """
        try:
            async with asyncio.timeout(retry_delay(envelope.deliveries)):
                await self._shared.stopping.wait()
        except TimeoutError:
            pass
        try:
            await self._shared.acknowledgements.reject(message.raw_message)
        except (AMQPError, ConnectionError) as error:
            log.info("inbox.channel_closed", reason=str(error))


def _short(text: str) -> str:
    """The text, cut to the length of a property.

    Bytes that were not UTF-8 are longer as text, and a header as large as a frame leaves no room.
    """
    return text if len(text) < SHORT_BYTES // 4 else text.encode()[:SHORT_BYTES].decode(errors="ignore")
