"""The number of dead letters, asked without taking any."""

from __future__ import annotations

import asyncio
from typing import Final

from aio_pika.exceptions import AMQPError

from coordinator.broker.connection import Broker, BrokerUnreachable
from coordinator.wire.topology import DEAD_QUEUE

TIMEOUT_SECONDS: Final = 5.0


class RabbitDeadLetters:
    """Implements `ports.DeadLetters`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def count(self) -> int:
        """On a channel of its own. Raises BrokerUnreachable."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._broker.connection.channel() as channel:
                queue = await channel.declare_queue(DEAD_QUEUE, passive=True)
                return queue.declaration_result.message_count or 0
        except (AMQPError, TimeoutError, RuntimeError) as error:
            raise BrokerUnreachable("RabbitMQ does not answer; ask again in a moment") from error
