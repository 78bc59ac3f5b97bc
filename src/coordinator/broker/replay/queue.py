"""The queue of dead letters, for operators: looked at, sent again in their senders' names, or dropped.

The letters are taken from the queue without an acknowledgement, and given back at the end: whoever dies in
between loses none. Meanwhile no other reader sees them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, NamedTuple

import structlog
from aio_pika.abc import AbstractIncomingMessage

from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import Gateway, ReplayableLetter, Replayed
from coordinator.broker.connection import Broker
from coordinator.broker.envelope import ReceivedMessage, read_commands
from coordinator.broker.replay.letters import LetterReader, sender_of
from coordinator.domain.errors import Code, Refusal
from coordinator.wire.answers import Accepted, Answer, Refused
from coordinator.wire.signed_messages import MessageSigner
from coordinator.wire.topology import DEAD_QUEUE

MAX_LOOKED_AT: Final = 2000
"""Letters of one look: the oldest ones."""

log = structlog.get_logger("dead_letters")


class _Held(NamedTuple):
    message: AbstractIncomingMessage
    letter: ReplayableLetter


class RabbitReplays:
    """A `DeadLetterReplays`. Used on the event loop."""

    def __init__(
        self, broker: Broker, gateway: Gateway, keyring: Keyring, signer: MessageSigner, *, by_user: bool
    ) -> None:
        self._broker = broker
        self._gateway = gateway
        self._keyring = keyring
        self._read = LetterReader(keyring, signer, by_user=by_user).read
        self._lock = asyncio.Lock()

    async def oldest(self, limit: int) -> tuple[Sequence[ReplayableLetter], int]:
        async with self._held(limit) as (held, total):
            return [one.letter for one in held], total

    async def replay(self, ids: Collection[str] | None, limit: int, *, unproven: bool) -> Sequence[Replayed]:
        replayed = []
        async with self._held(_looked_at(ids, limit)) as (held, _):
            for one in _chosen(held, ids):
                answers = await self._send(one, unproven=unproven)
                if all(isinstance(answer, Accepted) for answer in answers):
                    await one.message.ack()
                replayed.append(Replayed(one.letter, answers))
        return replayed

    async def drop(self, ids: Collection[str] | None, limit: int) -> Sequence[ReplayableLetter]:
        dropped = []
        async with self._held(_looked_at(ids, limit)) as (held, _):
            for one in _chosen(held, ids):
                await one.message.ack()
                dropped.append(one.letter)
        return dropped

    @asynccontextmanager
    async def _held(self, limit: int) -> AsyncIterator[tuple[list[_Held], int]]:
        """The oldest letters, and the number of all; those that are not acknowledged go back."""
        async with self._lock, self._broker.connection.channel() as channel:
            queue = await channel.get_queue(DEAD_QUEUE, ensure=False)
            held: list[_Held] = []
            total = 0
            try:
                while len(held) < limit:
                    message = await queue.get(no_ack=False, fail=False)
                    if message is None:
                        break
                    held.append(_Held(message, self._read(message)))
                    total = max(total, len(held) + (message.message_count or 0))
                yield held, total
            finally:
                for one in held:
                    if not one.message.processed:
                        await one.message.nack(requeue=True)

    async def _send(self, held: _Held, *, unproven: bool) -> Sequence[Answer]:
        """The answers to the commands of a letter, sent as its principal. Raises nothing of a refusal."""
        letter = held.letter
        try:
            if not letter.proven and not unproven:
                raise Refusal(
                    Code.UNAUTHORIZED_KEY, "its sender is not proven: vouch for the name, or drop the letter"
                )
            principal = sender_of(letter, self._keyring)
            envelope = replace(
                ReceivedMessage.of(held.message), kind=letter.type, message_id=letter.message_id
            )
            batch = await read_commands(envelope, principal)
        except Refusal as refusal:
            return [Refused(refusal.code, refusal.detail)]
        answers = batch.answers(await self._gateway.handle(list(batch.items)) if batch.items else [])
        codes = sorted({answer.code.value for answer in answers if isinstance(answer, Refused)})
        log.info("replayed", letter=letter.id, kind=letter.type[:100], by=principal.name, refused=codes)
        return answers


def _looked_at(ids: Collection[str] | None, limit: int) -> int:
    return limit if ids is None else MAX_LOOKED_AT


def _chosen(held: Sequence[_Held], ids: Collection[str] | None) -> list[_Held]:
    return [one for one in held if ids is None or one.letter.id in ids]
