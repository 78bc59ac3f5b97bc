"""Polls at a process that dispatches, at one that does not, and miners over AMQP share one work queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import aiormq
import pytest
from aiormq.abc import DeliveredMessage

from coordinator.application.ports import TakenOffer
from coordinator.broker import connection
from coordinator.broker.connection import Broker
from coordinator.broker.offers import RabbitWorkQueues
from coordinator.broker.polls import handover, waiting_polls
from coordinator.broker.topology import declare_topology
from coordinator.dev.servers import RabbitMQServer
from coordinator.wire.offers import Offer
from tests.harness.keys import SIGNER
from tests.harness.offers import an_offer
from tests.harness.waiting import eventually

SOON = 60.0


class Process:
    """One process's queues, and polls that come back after each offer."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.queues = RabbitWorkQueues(broker, SIGNER)
        self.got: set[UUID] = set()
        self._polls: list[asyncio.Task[None]] = []

    def park(self, count: int) -> None:
        """Let so many miners poll."""
        self._polls += [asyncio.create_task(self._poll()) for _ in range(count)]

    async def parked(self) -> None:
        """Return once a consumer waits for these polls."""
        await eventually(self._has_consumer, "a consumer waits")

    async def _has_consumer(self) -> bool:
        channel = await self.broker.channel()
        try:
            underlay = await channel.get_underlay_channel()
            declared = await underlay.queue_declare("work.p", passive=True)
            return bool(declared.consumer_count)
        finally:
            await channel.close()

    async def _poll(self) -> None:
        while (taken := await self.queues.take("p", 2 * SOON)) is not None:
            self.got.add(taken.offer.job_id)
            await taken.done()

    async def stop(self) -> None:
        await self.queues.stop()
        for poll in self._polls:
            poll.cancel()
        await asyncio.gather(*self._polls, return_exceptions=True)
        await self.broker.stop()


async def a_process(url: str) -> Process:
    broker = Broker(url)
    await broker.start()
    await declare_topology(broker.connection)
    return Process(broker)


@pytest.fixture
async def leader(amqp_url: str) -> AsyncIterator[Process]:
    """The one whose dispatcher publishes."""
    process = await a_process(amqp_url)
    yield process
    await process.stop()


@pytest.fixture
async def other(amqp_url: str) -> AsyncIterator[Process]:
    process = await a_process(amqp_url)
    yield process
    await process.stop()


async def take(process: Process) -> TakenOffer:
    taken = await process.queues.take("p", SOON)
    assert taken is not None
    return taken


async def test_a_poll_at_another_process_gets_its_offer(leader: Process, other: Process) -> None:
    """Offers reach polls at a process that does not publish, now and when they have waited for long."""
    for _ in range(3):
        polling = asyncio.create_task(take(other))
        await asyncio.wait([polling], timeout=0.2)
        published = an_offer()
        assert await leader.queues.publish("p", [[published]]) == []
        taken = await asyncio.wait_for(polling, SOON)
        assert published == taken.offer
        await taken.done()


async def test_polls_of_all_processes_get_their_part(
    leader: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While polls wait at both, both get offers, and each offer goes to one of them."""
    monkeypatch.setattr(waiting_polls, "ASK_SECONDS", 0.1)
    other.park(4)
    await other.parked()
    leader.park(4)
    published = set()

    async def both_have_some() -> bool:
        one = an_offer()
        published.add(one.job_id)
        assert await leader.queues.publish("p", [[one]]) == []
        return bool(leader.got and other.got)

    await eventually(both_have_some, "both have some", tolerate=False)
    await eventually(lambda: leader.got | other.got == published, "all are taken")
    assert not leader.got & other.got


async def test_a_miner_over_amqp_does_not_starve_beside_polls(
    leader: Process, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polls that wait at the dispatcher's process leave offers to a consumer of the same profile."""
    monkeypatch.setattr(waiting_polls, "ASK_SECONDS", 0.1)
    await leader.queues.ensure("p")
    got = asyncio.Event()

    async def arrived(message: DeliveredMessage) -> None:
        got.set()

    miner = await aiormq.connect(amqp_url)
    try:
        await (await miner.channel()).basic_consume("work.p", arrived, no_ack=True)
        leader.park(4)

        async def miner_has_one() -> bool:
            assert await leader.queues.publish("p", [[an_offer()]]) == []
            return got.is_set()

        await eventually(miner_has_one, "the miner has one", tolerate=False)
    finally:
        await miner.close()


async def test_an_offer_whose_poll_has_gone(leader: Process, other: Process) -> None:
    """It goes to the next poll that waits here; without one, to a poll at another process."""
    first, second = [asyncio.create_task(take(leader)) for _ in range(2)]
    await asyncio.wait([first, second], timeout=0.2)
    published = an_offer()
    assert await leader.queues.publish("p", [[published]]) == []
    await (await asyncio.wait_for(first, SOON)).back()
    again = await asyncio.wait_for(second, SOON)
    assert published == again.offer

    await again.back()

    elsewhere = await take(other)
    assert published == elsewhere.offer
    await elsewhere.done()


async def test_a_stop_gives_spare_offers_back(
    leader: Process, other: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a bundle that was kept for further polls is there for another process."""
    monkeypatch.setattr(handover, "SPARE_SECONDS", SOON)
    polling = asyncio.create_task(take(leader))
    await asyncio.wait([polling], timeout=0.2)
    bundle = [an_offer() for _ in range(3)]
    assert await leader.queues.publish("p", [bundle]) == []
    taken = await asyncio.wait_for(polling, SOON)
    assert bundle[0] == taken.offer

    await leader.queues.stop()
    await taken.back()

    rest = [await take(other) for _ in bundle]
    assert {o.job_id for o in bundle} == {each.offer.job_id for each in rest}
    for each in rest:
        await each.done()


async def test_polls_that_are_parked_while_the_broker_is_killed(
    breakable_rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait on, and each process's get offers once the broker is back."""
    monkeypatch.setattr(connection, "LAST_RETRY_SECONDS", 0.5)
    monkeypatch.setattr(waiting_polls, "ASK_SECONDS", 0.1)
    url = breakable_rabbitmq.new_vhost()
    leader, other = await a_process(url), await a_process(url)
    try:
        for process in (leader, other):
            process.park(3)
            await process.parked()
        await asyncio.to_thread(breakable_rabbitmq.cut_power)
        await asyncio.to_thread(breakable_rabbitmq.start)
        await eventually(lambda: leader.broker.connected and other.broker.connected, "both are connected")
        unsent: list[Offer] = []

        async def all_get_some() -> bool:
            unsent.extend(await leader.queues.publish("p", [[an_offer()]]))
            return bool(leader.got and other.got)

        await eventually(all_get_some, "both get offers")
    finally:
        await leader.stop()
        await other.stop()
