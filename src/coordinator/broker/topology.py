"""Exchanges, queues and bindings as data, and the functions that declare them. `wire/topology.py` names them.

RabbitMQ 3.10 and 4.x both take every argument: nothing is transient, nothing needs a global prefetch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource

from coordinator.application.ports import BrokerMismatch
from coordinator.broker.connection import BrokerUnreachable
from coordinator.wire.topology import (
    COMMANDS_EXCHANGE,
    COMMANDS_QUEUE,
    CONTROL_EXCHANGE,
    DEAD_EXCHANGE,
    DEAD_QUEUE,
    EVENTS_EXCHANGE,
    EVENTS_STREAM,
    HEARTBEAT_TYPE,
    HEARTBEATS_EXCHANGE,
    HEARTBEATS_QUEUE,
    PROGRESS_EXCHANGE,
    WORK_EXCHANGE,
    control_queue_name,
    work_queue_name,
)

QueueType = Literal["classic", "quorum", "stream"]
WorkQueueType = Literal["classic", "quorum"]

MINUTE_MS = 60_000

WORK_EXPIRES_MS = 10 * MINUTE_MS
"""An unused work or control queue expires after this; the next registration declares it again."""
CONTROL_MAX_LENGTH = 100
HEARTBEAT_TTL_MS = 10_000
"""A heartbeat that waited longer is useless: the next one has arrived already."""
HEARTBEATS_MAX_LENGTH = 100_000
COMMAND_DELIVERY_LIMIT = 50
"""With the inbox's delays (see `inbox.retry_delay`) about three quarters of an hour until a dead letter."""
UNLIMITED_DELIVERIES = 1_000_000
"""RabbitMQ 4 drops a message after 20 deliveries unless told otherwise; 3.10 does not know "unlimited"."""
DEAD_MAX_BYTES = 2**30
EVENTS_MAX_AGE = "7D"
EVENTS_MAX_BYTES = 10 * 2**30
EVENTS_SEGMENT_BYTES = 100 * 2**20
DECLARE_TIMEOUT_SECONDS = 30.0


class TopologyMismatch(BrokerMismatch):
    """An exchange or queue of ours exists with other arguments. The text says which, and what to do."""


class NameTaken(TopologyMismatch):
    """A connection that is not ours holds a queue of this name, and only its end frees the name."""


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    name: str
    kind: Literal["direct", "topic", "fanout"]


@dataclass(frozen=True, slots=True)
class QueueSpec:
    name: str
    type: QueueType
    arguments: dict[str, Any] = field(default_factory=dict)
    exchange: str | None = None
    """Where it is bound; None: only the default exchange reaches it."""
    binding_key: str = ""

    def all_arguments(self) -> dict[str, Any]:
        return {"x-queue-type": self.type, **self.arguments}


COMMANDS = ExchangeSpec(COMMANDS_EXCHANGE, "topic")
HEARTBEATS = ExchangeSpec(HEARTBEATS_EXCHANGE, "direct")
WORK = ExchangeSpec(WORK_EXCHANGE, "direct")
CONTROL = ExchangeSpec(CONTROL_EXCHANGE, "direct")
EVENTS = ExchangeSpec(EVENTS_EXCHANGE, "topic")
PROGRESS = ExchangeSpec(PROGRESS_EXCHANGE, "topic")
DEAD = ExchangeSpec(DEAD_EXCHANGE, "fanout")
EXCHANGES = (COMMANDS, HEARTBEATS, WORK, CONTROL, EVENTS, PROGRESS, DEAD)

QUEUES = (
    QueueSpec(
        DEAD_QUEUE,
        "quorum",
        {
            "x-max-length-bytes": DEAD_MAX_BYTES,
            "x-overflow": "drop-head",
            "x-delivery-limit": UNLIMITED_DELIVERIES,
        },
        DEAD.name,
    ),
    QueueSpec(
        COMMANDS_QUEUE,
        "quorum",
        {
            "x-dead-letter-exchange": DEAD.name,
            "x-delivery-limit": COMMAND_DELIVERY_LIMIT,
            # At least once needs reject-publish; without it a dead letter on its way could be lost.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
        COMMANDS.name,
        "#",
    ),
    QueueSpec(
        EVENTS_STREAM,
        "stream",
        {
            "x-max-age": EVENTS_MAX_AGE,
            "x-max-length-bytes": EVENTS_MAX_BYTES,
            "x-stream-max-segment-size-bytes": EVENTS_SEGMENT_BYTES,
        },
        EVENTS.name,
        "#",
    ),
)
"""The permanent queues, in an order in which they can be declared."""


def heartbeats_queue(queue_type: WorkQueueType) -> QueueSpec:
    return QueueSpec(
        HEARTBEATS_QUEUE,
        queue_type,
        {
            "x-message-ttl": HEARTBEAT_TTL_MS,
            "x-max-length": HEARTBEATS_MAX_LENGTH,
            "x-overflow": "drop-head",
        },
        HEARTBEATS.name,
        HEARTBEAT_TYPE,
    )


def work_queue(profile: str, queue_type: WorkQueueType) -> QueueSpec:
    """The one queue of a profile's offers, bound by the profile."""
    arguments: dict[str, Any] = {"x-expires": WORK_EXPIRES_MS}
    if queue_type == "quorum":
        arguments["x-delivery-limit"] = UNLIMITED_DELIVERIES
    return QueueSpec(work_queue_name(profile), queue_type, arguments, WORK.name, profile)


def control_queue(miner_id: str, queue_type: WorkQueueType) -> QueueSpec:
    """One miner's hints, bound by the miner's id.

    Not exclusive: an exclusive queue stays locked while a dead connection lingers.
    """
    arguments = {
        "x-expires": WORK_EXPIRES_MS,
        "x-max-length": CONTROL_MAX_LENGTH,
        "x-overflow": "drop-head",
    }
    return QueueSpec(control_queue_name(miner_id), queue_type, arguments, CONTROL.name, miner_id)


async def declare_topology(connection: AbstractConnection, queue_type: WorkQueueType = "classic") -> None:
    """Declare all exchanges and permanent queues. Idempotent. Raises TopologyMismatch, BrokerUnreachable.

    On a channel of its own, because the broker closes the channel of a declaration that it refuses.
    """
    try:
        async with asyncio.timeout(DECLARE_TIMEOUT_SECONDS), connection.channel() as channel:
            for exchange in EXCHANGES:
                try:
                    await channel.declare_exchange(exchange.name, exchange.kind, durable=True)
                except ChannelPreconditionFailed as error:
                    raise TopologyMismatch(_advice("exchange", exchange.name, error)) from error
            await declare_queues(channel, (*QUEUES, heartbeats_queue(queue_type)))
    except TimeoutError as error:
        raise BrokerUnreachable(
            "RabbitMQ did not answer while exchanges and queues were declared; check that each quorum queue "
            f"has a leader (rabbitmq-queues quorum_status {COMMANDS_QUEUE})"
        ) from error


async def declare_queues(channel: AbstractChannel, queues: Iterable[QueueSpec]) -> list[int]:
    """Declare and bind these queues; the number of consumers of each. Idempotent.

    Raises TopologyMismatch; the channel is then closed.
    """
    underlay = await channel.get_underlay_channel()
    consumers = []
    for queue in queues:
        # Without aio-pika's queue objects: a robust channel would keep each of them for ever.
        try:
            declared = await underlay.queue_declare(queue.name, durable=True, arguments=queue.all_arguments())
            consumers.append(declared.consumer_count or 0)
        except ChannelLockedResource as error:
            raise NameTaken(
                f"the queue {queue.name} is another connection's alone; close that connection ({error})"
            ) from error
        except (ChannelPreconditionFailed, ChannelAccessRefused) as error:
            raise TopologyMismatch(_advice("queue", queue.name, error)) from error
        if queue.exchange is not None:
            await underlay.queue_bind(queue.name, queue.exchange, queue.binding_key)
    return consumers


def _advice(kind: str, name: str, error: Exception) -> str:
    return (
        f"the {kind} {name} exists with other arguments than ours ({error}); delete it if nothing in it is "
        "needed, or set WORK_QUEUE_TYPE back to what it was"
    )
