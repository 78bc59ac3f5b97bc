"""Events on the exchange and in the stream, as readers of a real broker see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from aio_pika import Message, connect
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from coordinator.application.ports import Recorded
from coordinator.broker.connection import Broker, PublishFailed
from coordinator.broker.publisher import MAX_ARRAY_BYTES, RabbitEventSink
from coordinator.domain.job import JobCanceled, JobExpired
from coordinator.domain.messages import Event
from coordinator.domain.miner import MinerDrained
from coordinator.domain.service import ServiceRetired
from coordinator.storage.log.mapping import encode
from coordinator.wire.topology import EVENTS_STREAM
from tests.harness.metadata import STORED_METADATA, TRACEPARENT

SOON = 60.0
AT = 1_800_000_000_000


def canceled(client: str, job: UUID, reason: str = "") -> JobCanceled:
    return JobCanceled(at=AT, by=client, job_id=job, client=client, attempt=1, reason=reason)


def expired(client: str, job: UUID) -> JobExpired:
    return JobExpired(at=AT, by="coordinator", job_id=job, client=client, attempt=1)


def recorded(events: Sequence[Event], streams: Sequence[UUID] | None = None) -> list[Recorded]:
    """The events at positions with gaps, each in its stream."""
    places = streams or [getattr(event, "job_id", None) or uuid4() for event in events]
    return [
        Recorded(10 + 3 * i, places[i], i + 1, e, encode(e)[1], STORED_METADATA, str(places[i]))
        for i, e in enumerate(events)
    ]


class Reader:
    """Reads what is published under a binding key."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self.messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def bind(self, key: str) -> None:
        self.queue = await self.channel.declare_queue(exclusive=True)
        await self.queue.bind("coordinator.events", key)
        await self.queue.consume(self.messages.put, no_ack=True)

    async def read(self, count: int) -> list[AbstractIncomingMessage]:
        async with asyncio.timeout(SOON):
            return [await self.messages.get() for _ in range(count)]

    async def nothing_more(self) -> bool:
        """What was confirmed is on the queue by now, ahead of a last word that is put there directly."""
        await self.channel.default_exchange.publish(Message(b"the last word"), self.queue.name)
        return [b"the last word"] == [message.body for message in await self.read(1)]


@pytest.fixture
async def channel(broker: Broker, amqp_url: str) -> AsyncIterator[AbstractChannel]:
    async with await connect(amqp_url) as connection:
        yield await connection.channel()


@pytest.fixture
def sink(broker: Broker) -> RabbitEventSink:
    return RabbitEventSink(broker)


async def test_a_lone_event(sink: RabbitEventSink, channel: AbstractChannel) -> None:
    """One event is an array of one, under a key with its job's id, with everything a reader needs."""
    reader = Reader(channel)
    await reader.bind("#")
    job = uuid4()

    await sink.publish(recorded([canceled("alice", job, reason='quoted "ü"')]))

    (message,) = await reader.read(1)
    assert message.routing_key == f"job.canceled.alice.{job}"
    assert message.type == "job.canceled.v1"
    assert message.message_id == f"{job}-1"
    assert message.content_type == "application/json"
    assert json.loads(message.body) == [
        {
            "position": 10,
            "stream": str(job),
            "version": 1,
            "topic": "job.canceled.v1",
            "event": {
                "at": AT,
                "by": "alice",
                "job_id": str(job),
                "client": "alice",
                "attempt": 1,
                "reason": 'quoted "ü"',
            },
            "metadata": {"command_id": "command-1", "traceparent": TRACEPARENT},
        }
    ]


async def test_events_are_grouped_by_type_and_client(sink: RabbitEventSink, channel: AbstractChannel) -> None:
    """An array has one type and one client; over several jobs its key says `many`; the order is the log's."""
    reader = Reader(channel)
    await reader.bind("#")
    jobs = [uuid4() for _ in range(3)]

    await sink.publish(
        recorded(
            [
                canceled("alice", jobs[0]),
                canceled("bob", jobs[1]),
                expired("alice", jobs[2]),
                canceled("alice", jobs[2]),
                canceled("bob", jobs[1]),
            ]
        )
    )

    by_key = {m.routing_key: [e["position"] for e in json.loads(m.body)] for m in await reader.read(3)}
    assert by_key == {
        "job.canceled.alice.many": [10, 19],
        f"job.canceled.bob.{jobs[1]}": [13, 22],
        f"job.expired.alice.{jobs[2]}": [16],
    }
    assert await reader.nothing_more()


async def test_events_of_no_client(sink: RabbitEventSink, channel: AbstractChannel) -> None:
    """Miners' and services' events are nobody's, and name the miner or the service."""
    reader = Reader(channel)
    await reader.bind("#")

    await sink.publish(
        recorded(
            [
                MinerDrained(at=AT, by="gpu", miner_id="node@gpu", session_id="session-1"),
                ServiceRetired(at=AT, by="root", service="whisper"),
            ]
        )
    )

    keys = {m.routing_key for m in await reader.read(2)}
    assert keys == {"miner.drained.-.node@gpu", "service.retired.-.whisper"}


async def test_a_client_binds_to_its_own(sink: RabbitEventSink, channel: AbstractChannel) -> None:
    """The third word is whose an event is: a binding to one's own name sees that and nothing else."""
    reader = Reader(channel)
    await reader.bind("*.*.alice.*")
    mine = uuid4()

    await sink.publish(
        recorded(
            [
                canceled("bob", uuid4()),
                canceled("alice", mine),
                canceled("alice2", uuid4()),
                MinerDrained(at=AT, by="alice", miner_id="alice", session_id="session-1"),
            ]
        )
    )

    (message,) = await reader.read(1)
    assert message.routing_key == f"job.canceled.alice.{mine}"
    assert await reader.nothing_more()


async def test_arrays_are_bounded(sink: RabbitEventSink, channel: AbstractChannel) -> None:
    """No array has more than 500 events or reaches a MiB, and none loses or reorders one."""
    reader = Reader(channel)
    await reader.bind("#")
    many = recorded([canceled("alice", uuid4()) for _ in range(1001)])
    large = recorded([canceled("bob", uuid4(), reason="x" * 2000) for _ in range(600)])

    await sink.publish(many + large)

    arrays = await reader.read(5)
    sizes: dict[str, list[int]] = {"alice": [], "bob": []}
    positions: dict[str, list[int]] = {"alice": [], "bob": []}
    for message in arrays:
        assert len(message.body) <= MAX_ARRAY_BYTES
        elements: list[dict[str, Any]] = json.loads(message.body)
        client = elements[0]["event"]["client"]
        sizes[client].append(len(elements))
        positions[client] += [e["position"] for e in elements]
    assert sizes["alice"] == [500, 500, 1]
    assert max(sizes["bob"]) <= 500
    assert sum(sizes["bob"]) == 600
    assert positions["alice"] == [r.position for r in many]
    assert positions["bob"] == [r.position for r in large]


async def test_the_stream_keeps_every_event(sink: RabbitEventSink, channel: AbstractChannel) -> None:
    """Who comes later reads the events from the stream, from the first on."""
    for i in range(3):
        await sink.publish(recorded([canceled("alice", uuid4(), reason=str(i))]))

    await channel.set_qos(prefetch_count=10)
    stream = await channel.declare_queue(EVENTS_STREAM, passive=True)
    messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    await stream.consume(messages.put, arguments={"x-stream-offset": "first"})

    async with asyncio.timeout(SOON):
        bodies = [json.loads((await messages.get()).body) for _ in range(3)]
    assert [body[0]["event"]["reason"] for body in bodies] == ["0", "1", "2"]


async def test_nothing_to_publish(sink: RabbitEventSink) -> None:
    """No events, no messages, no waiting."""
    await sink.publish([])


async def test_without_a_connection_publishing_raises(sink: RabbitEventSink, broker: Broker) -> None:
    """What is not confirmed is never taken for published."""
    await broker.stop()

    with pytest.raises(PublishFailed, match="1 of 1"):
        await sink.publish(recorded([canceled("alice", uuid4())]))
