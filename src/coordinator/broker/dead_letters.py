"""The dead letters: read in place, and dropped one by one.

A reader takes messages without acknowledging them, and closes its channel: the broker puts them back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from aio_pika.exceptions import AMQPError

from coordinator.application.ports import DeadLetter
from coordinator.broker.connection import Broker, BrokerUnreachable
from coordinator.wire.topology import DEAD_QUEUE

TIMEOUT_SECONDS: Final = 5.0
MOST: Final = 1000
"""Messages that a look for one of them takes."""


class RabbitDeadLetters:
    """Implements `ports.DeadLetters`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def count(self) -> int:
        async with self._queue() as queue:
            return queue.declaration_result.message_count or 0

    async def first(self, limit: int) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        async with self._queue() as queue:
            while len(found) < limit:
                message = await queue.get(fail=False, timeout=TIMEOUT_SECONDS)
                if message is None:
                    break
                found.append(_letter(message))
        return found

    async def drop(self, letter_id: str) -> bool:
        async with self._queue() as queue:
            for _ in range(MOST):
                message = await queue.get(fail=False, timeout=TIMEOUT_SECONDS)
                if message is None:
                    return False
                if _letter(message).id == letter_id:
                    await message.ack()
                    return True
        return False

    @asynccontextmanager
    async def _queue(self) -> AsyncIterator[AbstractQueue]:
        """The queue, on a channel of its own. Raises BrokerUnreachable."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._broker.connection.channel() as channel:
                yield await channel.declare_queue(DEAD_QUEUE, passive=True)
        except (AMQPError, TimeoutError, RuntimeError) as error:
            raise BrokerUnreachable("RabbitMQ does not answer; ask again in a moment") from error


def _letter(message: AbstractIncomingMessage) -> DeadLetter:
    headers: Mapping[str, Any] = message.headers or {}
    code, reason = _text(headers.get("code")), _text(headers.get("reason"))
    if not reason:  # the broker gave up itself
        died = headers.get("x-first-death-reason") or "unknown"
        reason = f"the broker gave up: {_text(died)}"
    principal = _text(headers.get("principal"))
    message_id = _text(headers.get("message_id")) or (message.message_id or "")
    digest = hashlib.sha256(f"{principal}\n{message_id}\n".encode() + message.body).hexdigest()
    return DeadLetter(
        id=digest[:32],
        type=message.type or _text(headers.get("routing_key")) or (message.routing_key or ""),
        code=code,
        reason=reason,
        principal=principal,
        message_id=message_id,
        body=message.body,
    )


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
