"""Keeps the topology whole while it runs: whoever deletes an exchange, a queue or a binding costs seconds.

RabbitMQ tells nobody about a deleted exchange or binding. So everything permanent is looked for every few
seconds, and declared again if it is missing. The queues of profiles are declared again by their next offer or
by the miners that consume them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import structlog
from aio_pika import RobustConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.abc import AbstractChannel

from coordinator.application.health import Part
from coordinator.application.metrics import QueueMetrics
from coordinator.application.ports import BrokerMismatch
from coordinator.broker.connection import Broker, BrokerUnreachable
from coordinator.broker.topology import (
    DECLARE_TIMEOUT_SECONDS,
    EXCHANGES,
    QUEUES,
    ExchangeSpec,
    QueueSpec,
    WorkQueueType,
    declare_topology,
    heartbeats_queue,
)
from coordinator.wire.topology import OWNER_EXCHANGE

WATCH_SECONDS = 1.5
"""Between two looks: some fifteen round trips each."""
_OWNER_PREFIX = "coordinator.log."

log = structlog.get_logger("broker")


class VirtualHostTaken(BrokerMismatch):
    """The virtual host belongs to another log. The text says what to do."""


async def claim_virtual_host(connection: RobustConnection, log_id: str) -> None:
    """Make the virtual host this log's, for good. Raises VirtualHostTaken, BrokerUnreachable.

    An exchange that nobody uses carries the log's id as the name of its alternate exchange: of an exchange's
    arguments RabbitMQ compares only that one. An exchange exists on all nodes of a cluster, a queue on one.
    """
    try:
        async with asyncio.timeout(DECLARE_TIMEOUT_SECONDS):
            channel = await _plain_channel(connection)
            try:
                await channel.exchange_declare(
                    OWNER_EXCHANGE,
                    exchange_type="fanout",
                    durable=True,
                    arguments={"alternate-exchange": f"{_OWNER_PREFIX}{log_id}"},
                )
            finally:
                await _close(channel)
    except ChannelPreconditionFailed as error:
        raise VirtualHostTaken(
            "the virtual host in AMQP_URL belongs to the log of another database; give this coordinator a "
            f"virtual host of its own, or delete the exchange {OWNER_EXCHANGE} if that log is not used any "
            f"more ({error})"
        ) from error
    except TimeoutError as error:
        raise BrokerUnreachable(f"RabbitMQ did not answer while {OWNER_EXCHANGE} was declared") from error


class TopologyWatch:
    """Looks for everything permanent, and mends it. `check` is a probe."""

    def __init__(
        self, broker: Broker, queue_type: WorkQueueType, topology: Part, virtual_host: Part, log_id: str
    ) -> None:
        self._broker = broker
        self._queue_type: WorkQueueType = queue_type
        self._topology = topology
        self._virtual_host = virtual_host
        self._log_id = log_id
        self._callbacks: list[Callable[[Sequence[str]], None]] = []
        self.queues: dict[str, QueueMetrics] = {}
        """The permanent queues as of the last look."""

    def on_mended(self, callback: Callable[[Sequence[str]], None]) -> None:
        """Call back with the names of what was missing, once it exists again. Bindings to it are gone."""
        self._callbacks.append(callback)

    async def check(self) -> None:
        """Raises TopologyMismatch, BrokerUnreachable, and the broker's errors."""
        if not self._broker.listening:
            self.queues = {}
            return  # its own part tells
        connection = self._broker.connection
        entities: list[ExchangeSpec | QueueSpec] = [*EXCHANGES, *QUEUES]
        entities.append(heartbeats_queue(self._queue_type))
        missing = await _missing(connection, entities, self.queues)
        if missing:
            names = ", ".join(missing)
            log.warning("broker.missing", names=names)
            self._topology.fails(f"missing on the broker: {names}")
            await declare_topology(connection, self._queue_type)
            for callback in self._callbacks:
                callback(missing)
        await _bind(connection)
        try:
            await claim_virtual_host(connection, self._log_id)
        except VirtualHostTaken as error:
            self._virtual_host.fails("the virtual host belongs to another log", detail=str(error))
        else:
            self._virtual_host.works()


async def _missing(
    connection: RobustConnection, entities: Sequence[ExchangeSpec | QueueSpec], found: dict[str, QueueMetrics]
) -> list[str]:
    """The names of those that do not exist; the queues that do are noted in `found`. Declares nothing."""
    missing: list[str] = []
    left = iter(entities)
    while (name := await _first_missing(connection, left, found)) is not None:
        missing.append(name)
    return missing


async def _first_missing(
    connection: RobustConnection,
    left: Iterator[ExchangeSpec | QueueSpec],
    found: dict[str, QueueMetrics],
) -> str | None:
    # The broker closes the channel of a passive declaration that finds nothing.
    channel = await _plain_channel(connection)
    try:
        for entity in left:
            try:
                if isinstance(entity, ExchangeSpec):
                    await channel.exchange_declare(entity.name, passive=True)
                else:
                    there = await channel.queue_declare(entity.name, passive=True)
                    found[entity.name] = QueueMetrics(there.message_count or 0, there.consumer_count or 0)
            except ChannelNotFoundEntity:
                found.pop(entity.name, None)
                return f"{'exchange' if isinstance(entity, ExchangeSpec) else 'queue'} {entity.name}"
        return None
    finally:
        await _close(channel)


async def _bind(connection: RobustConnection) -> None:
    """Make the bindings of the permanent queues again: RabbitMQ can't be asked whether they exist."""
    channel = await _plain_channel(connection)
    try:
        for queue in QUEUES:
            if queue.exchange is not None:
                await channel.queue_bind(queue.name, queue.exchange, queue.binding_key)
    finally:
        await _close(channel)


async def _plain_channel(connection: RobustConnection) -> AbstractChannel:
    """A channel that stays closed once the broker has closed it; a robust one would open again."""
    transport = connection.transport
    if transport is None:
        raise BrokerUnreachable("the broker is out of reach")
    return await transport.connection.channel(publisher_confirms=False)


async def _close(channel: AbstractChannel) -> None:
    if not channel.is_closed:
        await channel.close()
