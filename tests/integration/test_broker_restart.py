"""Nothing is lost when RabbitMQ is restarted, killed or frozen, and all goes on by itself afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from aio_pika import Message, connect_robust
from aio_pika.abc import HeadersType
from pamqp.commands import Basic

from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import Intent, Recorded
from coordinator.broker import connection, on_demand_queues
from coordinator.broker.connection import Broker, BrokerRefused, BrokerUnreachable, PublishFailed
from coordinator.broker.inbox import CommandInbox
from coordinator.broker.offers import RabbitHints, RabbitWorkQueues
from coordinator.broker.on_demand_queues import OnDemandQueues
from coordinator.broker.publisher import RabbitEventSink
from coordinator.broker.topology import TopologyMismatch, control_queue, declare_topology
from coordinator.crypto.mac import message_to_sign, sign_message
from coordinator.dev.servers import RabbitMQServer
from coordinator.domain.messages import Principal, Role
from coordinator.domain.service import ServiceRetired
from coordinator.storage.log.mapping import encode
from coordinator.wire.amqp.rpc import LINK_ERRORS, on_link
from coordinator.wire.answers import Accepted, Answer
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.topology import COMMANDS_QUEUE
from tests.harness.keys import SIGNER
from tests.harness.metadata import STORED_METADATA
from tests.harness.offers import an_offer
from tests.harness.waiting import eventually

SOON = 60.0
KEYS = Keyring({Role.CLIENT: ["alice:alice-secret"]})


class Front:
    """Remembers which commands it was given, and may be held up."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Condition()

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        async with self.changed:
            self.seen += [intent.message_id or "" for intent in intents]
            self.changed.notify_all()
        await self.gate.wait()
        return [Accepted(1) for _ in intents]

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        return [Accepted(1) for _ in beats]

    async def canonical(self, service: str) -> str:
        return service

    async def state(self, stream: UUID) -> Any:
        return None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON), self.changed:
            await self.changed.wait_for(condition)


async def in_thread(work: Callable[[], None]) -> None:
    await asyncio.to_thread(work)


async def reconnected(broker: Broker, inbox: CommandInbox) -> None:
    await eventually(lambda: broker.connected and inbox.connected, "both are connected")


@pytest.fixture(autouse=True)
def _back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a node boots, pauses grow to 5 s and declarations wait for 10: a test would wait as long."""
    monkeypatch.setattr(connection, "LAST_RETRY_SECONDS", 0.5)
    monkeypatch.setattr(on_demand_queues, "DECLARE_TIMEOUT_SECONDS", 1.0)


@pytest.fixture
def url(breakable_rabbitmq: RabbitMQServer) -> str:
    return breakable_rabbitmq.new_vhost()


@pytest.fixture
def amqp_url(url: str) -> str:
    """Where `broker` connects to: here the node that may be broken."""
    return url


@pytest.fixture
def gateway() -> Front:
    return Front()


@pytest.fixture
async def inbox(broker: Broker, gateway: Front) -> AsyncIterator[CommandInbox]:
    inbox = CommandInbox(broker, gateway, KEYS, SIGNER, prefetch=16, graceful_timeout=5.0)
    await inbox.start()
    yield inbox
    gateway.gate.set()
    await inbox.stop()


async def send(url: str, ids: Sequence[str]) -> None:
    """Publish submits with these ids until the broker has confirmed each."""
    connection = await connect_robust(url, reconnect_interval=0.2)
    channel = await connection.channel(on_return_raises=True)
    body = json.dumps({"service": "checksum", "payload": {}}).encode()
    for message_id in ids:
        signed = message_to_sign("job.submit", message_id, "", "", body)
        headers: HeadersType = {"principal": "alice", "signature": sign_message("alice-secret", signed)}
        message = Message(body, type="job.submit", message_id=message_id, headers=headers, delivery_mode=2)
        while True:
            try:
                await channel.ready()
                exchange = await channel.get_exchange("coordinator.commands", ensure=False)
                await on_link(exchange.publish(message, "job.submit", timeout=5))
                break
            except LINK_ERRORS:
                await asyncio.sleep(0.1)
    await connection.close()


async def ready(url: str, queue: str) -> int:
    async with await connect_robust(url) as connection:
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_commands_in_flight_come_again(
    broker: Broker,
    inbox: CommandInbox,
    gateway: Front,
    breakable_rabbitmq: RabbitMQServer,
    url: str,
    how: str,
) -> None:
    """Commands that were handed in and not acknowledged when the broker went are handed in again."""
    gateway.gate.clear()
    ids = [f"m{i}" for i in range(40)]
    await send(url, ids)
    await gateway.until(lambda: len(gateway.seen) == 16)

    if how == "kill":
        await in_thread(breakable_rabbitmq.cut_power)
        await in_thread(breakable_rabbitmq.start)
    else:
        await in_thread(breakable_rabbitmq.restart)
    gateway.gate.set()
    await gateway.until(lambda: set(gateway.seen) == set(ids))
    await reconnected(broker, inbox)
    await inbox.stop()

    assert await ready(url, COMMANDS_QUEUE) == 0


async def test_an_outage_is_two_lines_in_the_log(broker: Broker, breakable_rabbitmq: RabbitMQServer) -> None:
    """One when the broker is lost, and one when it is back, with the seconds in between; tries are none."""
    with structlog.testing.capture_logs() as lines:
        await in_thread(breakable_rabbitmq.cut_power)
        await eventually(lambda: broker.state == "reconnecting")
        await in_thread(breakable_rabbitmq.start)
        await eventually(lambda: any(line["event"] == "broker.reconnected" for line in lines), "it is back")
        await asyncio.sleep(0)
    lost, back = [line for line in lines if line["event"].startswith("broker.")]
    assert ("broker.lost", "warning") == (lost["event"], lost["log_level"])
    assert "guest:***@" in lost["url"]
    assert ("broker.reconnected", "info") == (back["event"], back["log_level"])
    assert 0.1 < back["after_seconds"] < 60
    assert 1 == broker.disconnections


async def test_a_restart_in_the_middle_of_a_stream_of_commands(
    broker: Broker, inbox: CommandInbox, gateway: Front, breakable_rabbitmq: RabbitMQServer, url: str
) -> None:
    """Every command whose publisher saw a confirm is handled, although the broker was killed meanwhile."""
    ids = [f"m{i}" for i in range(400)]
    sending = asyncio.create_task(send(url, ids))
    await gateway.until(lambda: len(gateway.seen) >= 100)

    await in_thread(breakable_rabbitmq.cut_power)

    await eventually(lambda: broker.state == "reconnecting")
    await in_thread(breakable_rabbitmq.start)
    async with asyncio.timeout(SOON):
        await sending
    await gateway.until(lambda: set(gateway.seen) == set(ids))

    await reconnected(broker, inbox)
    assert broker.state == "connected"
    await inbox.stop()
    assert await ready(url, COMMANDS_QUEUE) == 0


async def test_offers_over_a_restart(broker: Broker, breakable_rabbitmq: RabbitMQServer) -> None:
    """While the broker is away offers are reported as not arrived; a waiting poll gets one afterwards.

    The poll waits at another process than the dispatcher's.
    """
    queues, elsewhere = RabbitWorkQueues(broker, SIGNER), RabbitWorkQueues(broker, SIGNER)
    resets = asyncio.Event()
    queues.on_reset(resets.set)
    await queues.publish("held", [[an_offer()]])
    held = await queues.take("held", SOON)
    waiting = asyncio.create_task(queues.take("p", 2 * SOON))
    await asyncio.wait([waiting], timeout=0.2)

    await in_thread(breakable_rabbitmq.leave)
    lost = [an_offer(), an_offer(), an_offer()]
    assert lost == await elsewhere.publish("p", [lost[:2], lost[2:]])
    with pytest.raises(BrokerUnreachable):
        async with asyncio.timeout(SOON):
            await queues.ensure("p")
    await in_thread(breakable_rabbitmq.come_back)
    async with asyncio.timeout(SOON):
        await resets.wait()
    published = an_offer()

    async def arrived() -> bool:
        return not await elsewhere.publish("p", [[published]])

    await eventually(arrived)
    taken = await asyncio.wait_for(waiting, SOON)
    assert taken is not None
    assert taken.offer == published
    assert held is not None
    await held.done()  # of a channel that is no more: no error
    await taken.done()
    await queues.stop()


async def test_polls_need_no_broker_beside_the_dispatcher(
    broker: Broker, breakable_rabbitmq: RabbitMQServer
) -> None:
    """While the broker is away, polls of the dispatcher's process get offers, and no offer is lost."""
    queues = RabbitWorkQueues(broker, SIGNER)
    resets = asyncio.Event()
    queues.on_reset(resets.set)
    polls = [asyncio.create_task(queues.take("p", 2 * SOON)) for _ in range(2)]
    await asyncio.wait(polls, timeout=0.2)

    await in_thread(breakable_rabbitmq.leave)
    offers = [an_offer() for _ in range(3)]
    unsent = await queues.publish("p", [[each] for each in offers])
    taken = [await poll for poll in polls]
    assert offers[:2] == [each.offer for each in taken if each is not None]
    spare = await queues.take("p", 0)
    assert offers[2:] == unsent + ([] if spare is None else [spare.offer])

    parked = asyncio.create_task(queues.take("p", 2 * SOON))
    assert taken[0] is not None
    await taken[0].back()  # its miner has gone
    again = await asyncio.wait_for(parked, SOON)
    assert again is not None
    assert offers[0] == again.offer
    await in_thread(breakable_rabbitmq.come_back)
    async with asyncio.timeout(SOON):
        await resets.wait()
    await queues.stop()


async def test_a_work_queue_that_was_deleted(broker: Broker) -> None:
    """A queue that vanishes under a waiting poll, or before a publish, is made again."""
    queues, elsewhere = RabbitWorkQueues(broker, SIGNER), RabbitWorkQueues(broker, SIGNER)
    await queues.ensure("p")
    waiting = asyncio.create_task(queues.take("p", SOON))
    channel = await (await broker.channel()).get_underlay_channel()

    async def consumers() -> int:
        return (await channel.queue_declare("work.p", passive=True)).consumer_count or 0

    await eventually(consumers)
    await channel.queue_delete("work.p")
    published = an_offer()
    assert await elsewhere.publish("p", [[published]]) == []

    taken = await asyncio.wait_for(waiting, SOON)
    assert taken is not None
    assert taken.offer == published
    await queues.stop()


async def test_hints_and_events_over_a_power_cut(broker: Broker, breakable_rabbitmq: RabbitMQServer) -> None:
    """While the broker is away a hint is lost without an error, and publishing an event raises."""
    hints, sink = RabbitHints(broker, SIGNER), RabbitEventSink(broker)
    event = ServiceRetired(at=1, by="root", service="whisper")
    events = [Recorded(1, uuid4(), 1, event, encode(event)[1], STORED_METADATA, "")]
    await hints.send("nobody", {"hint": "drain"})
    await sink.publish(events)
    await in_thread(breakable_rabbitmq.cut_power)

    async with asyncio.timeout(SOON):
        await hints.send("nobody", {"hint": "drain"})
        with pytest.raises(PublishFailed):
            await sink.publish(events)

    await in_thread(breakable_rabbitmq.start)

    async def published() -> bool:
        await sink.publish(events)
        return True

    await eventually(published)


async def test_a_frozen_broker_confirms_nothing(broker: Broker, breakable_rabbitmq: RabbitMQServer) -> None:
    """A broker that neither answers nor closes is told apart from one that confirmed."""
    breakable_rabbitmq.pause()
    try:
        outcome = await broker.publish(
            "coordinator.events", "a.b.c.d", b"[]", Basic.Properties(), timeout=0.3
        )
    finally:
        breakable_rabbitmq.resume()

    assert outcome == "unknown"
    async with asyncio.timeout(SOON):
        assert await broker.publish("coordinator.events", "a.b.c.d", b"[]", Basic.Properties()) == "confirmed"


async def test_starting_before_the_broker(breakable_rabbitmq: RabbitMQServer) -> None:
    """A start waits for a broker that is on its way, and says clearly when none comes."""
    await in_thread(breakable_rabbitmq.leave)
    broker = Broker(breakable_rabbitmq.url)
    with pytest.raises(BrokerUnreachable, match="AMQP_URL") as error:
        await broker.start(timeout=0.3)
    assert "guest:guest" not in str(error.value)
    assert broker.state == "stopped"

    starting = asyncio.create_task(broker.start(timeout=SOON))
    await in_thread(breakable_rabbitmq.come_back)
    await starting

    assert broker.connected
    await broker.stop()
    await broker.stop()
    assert broker.state == "stopped"


async def test_wrong_credentials(breakable_rabbitmq: RabbitMQServer) -> None:
    """A wrong password ends the start at once, a wrong virtual host after its time; a line says which."""
    wrong_password = breakable_rabbitmq.url.replace("guest:guest", "guest:wrong")
    async with asyncio.timeout(SOON):
        with pytest.raises(BrokerRefused, match="password") as error:
            await Broker(wrong_password).start(timeout=2 * SOON)
    assert "wrong" not in str(error.value)

    with pytest.raises(BrokerRefused, match="virtual host"):
        await Broker(breakable_rabbitmq.url + "nowhere").start(timeout=0.5)


async def test_declaring_again_and_otherwise(broker: Broker) -> None:
    """Declaring what is there does nothing; declaring it otherwise says what to do."""
    await declare_topology(broker.connection)

    with pytest.raises(TopologyMismatch, match="WORK_QUEUE_TYPE"):
        await declare_topology(broker.connection, "quorum")


async def test_quorum_queues_everywhere(url: str) -> None:
    """With WORK_QUEUE_TYPE=quorum the same topology and the same offers work on quorum queues."""
    broker = Broker(url)
    await broker.start()
    await declare_topology(broker.connection, "quorum")
    queues = RabbitWorkQueues(broker, SIGNER, "quorum")
    await OnDemandQueues(broker).declare(control_queue("gpu", "quorum"))
    published = an_offer()

    assert await queues.publish("p", [[published]]) == []
    taken = await queues.take("p", SOON)

    assert taken is not None
    assert taken.offer == published
    await taken.back()
    assert await queues.take("p", SOON) is not None
    await queues.stop()
    await broker.stop()
