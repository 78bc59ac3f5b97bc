"""Queues that are declared on demand: work queues and control queues."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import structlog
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from coordinator.broker.connection import Broker, BrokerUnreachable
from coordinator.broker.topology import NameTaken, QueueSpec, TopologyMismatch, declare_queues

DECLARE_TIMEOUT_SECONDS = 10.0
REMEMBERED_QUEUES = 10_000

log = structlog.get_logger(__name__)


class OnDemandQueues:
    """Declares queues, on a channel of its own: a refused declaration closes the channel."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._channel: AbstractChannel | None = None
        self._declared: OrderedDict[str, QueueSpec] = OrderedDict()
        """The latest ones, by name."""
        self._lock = asyncio.Lock()

    async def declare(self, queue: QueueSpec) -> int:
        """Declare and bind it; the number of its consumers. A queue of the name with other properties is
        replaced.

        Its content is lost, which is harmless: offers are made again, and hints may be lost. Raises NameTaken
        (a TopologyMismatch), BrokerUnreachable.
        """
        self._declared[queue.name] = queue
        self._declared.move_to_end(queue.name)
        if len(self._declared) > REMEMBERED_QUEUES:
            self._declared.popitem(last=False)
        # Shielded: aio-pika closes the channel of a call that is cancelled halfway.
        return await asyncio.shield(asyncio.ensure_future(self._declare(queue)))

    async def declare_again(self) -> None:
        """Declare and bind all of them anew: their exchange was lost. Unused ones expire again.

        Failures of the broker raise nothing; the next registration declares the queue.
        """
        for queue in list(self._declared.values()):
            try:
                await self.declare(queue)
            except (BrokerUnreachable, TopologyMismatch) as error:
                log.warning("queues.not_declared", reason=str(error))
                return

    async def _declare(self, queue: QueueSpec) -> int:
        try:
            async with asyncio.timeout(DECLARE_TIMEOUT_SECONDS), self._lock:
                if self._channel is None:
                    self._channel = await self._broker.channel()
                try:
                    [consumers] = await declare_queues(self._channel, [queue])
                except NameTaken as error:
                    log.error("queue.taken", queue=queue.name, reason=str(error))
                    raise
                except TopologyMismatch as error:
                    # A stranger's, or ours from before WORK_QUEUE_TYPE was changed.
                    log.warning("queue.replaced", queue=queue.name, reason=str(error))
                    await self._delete(queue.name)
                    [consumers] = await declare_queues(self._channel, [queue])
                return consumers
        except (TimeoutError, *CONNECTION_EXCEPTIONS) as error:
            raise BrokerUnreachable(f"could not declare {queue.name}: {error or 'no answer'}") from error

    async def _delete(self, name: str) -> None:
        channel = await self._broker.channel()
        try:
            await (await channel.get_underlay_channel()).queue_delete(name)
        finally:
            await channel.close()
