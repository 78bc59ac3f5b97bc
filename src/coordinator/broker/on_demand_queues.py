"""Queues that are declared on demand: work queues and control queues."""

from __future__ import annotations

import asyncio

from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from coordinator.broker.connection import Broker, BrokerUnreachable
from coordinator.broker.topology import QueueSpec, declare_queues

DECLARE_TIMEOUT_SECONDS = 10.0


class OnDemandQueues:
    """Declares queues, on a channel of its own: a refused declaration closes the channel."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._channel: AbstractChannel | None = None
        self._lock = asyncio.Lock()

    async def declare(self, queue: QueueSpec) -> None:
        """Raises TopologyMismatch, BrokerUnreachable."""
        # Shielded: aio-pika closes the channel of a call that is cancelled halfway.
        await asyncio.shield(asyncio.ensure_future(self._declare(queue)))

    async def _declare(self, queue: QueueSpec) -> None:
        try:
            async with asyncio.timeout(DECLARE_TIMEOUT_SECONDS), self._lock:
                if self._channel is None:
                    self._channel = await self._broker.channel()
                await declare_queues(self._channel, [queue])
        except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
            raise BrokerUnreachable(f"could not declare {queue.name}: {error or 'no answer'}") from error
