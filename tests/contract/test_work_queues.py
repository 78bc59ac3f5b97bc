"""The contract of `WorkQueues`, which the queues in memory and those on RabbitMQ both keep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol
from uuid import uuid4

import pytest

from coordinator.application.local_queues import LocalHints, LocalWorkQueues
from coordinator.application.ports import Offer, TakenOffer, WorkQueues
from coordinator.broker.connection import Broker
from coordinator.broker.offers import RabbitWorkQueues
from coordinator.broker.topology import declare_topology

SOON = 30.0
"""Seconds in which what must happen has happened, on a slow machine too."""
A_MOMENT = 0.2
"""Seconds after which what has not happened is taken for not happening."""


class Bench(Protocol):
    """Work queues, and what is left on one of them."""

    queues: WorkQueues

    async def left(self, profile: str) -> int:
        """How many offers are on the queue and not taken, once nothing is on its way any more."""


class LocalBench:
    def __init__(self) -> None:
        self.queues = LocalWorkQueues()

    async def left(self, profile: str) -> int:
        return await count_by_taking(self.queues, profile)


class RabbitBench:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.queues = RabbitWorkQueues(broker)

    async def left(self, profile: str) -> int:
        return await count_by_taking(self.queues, profile)


async def count_by_taking(queues: WorkQueues, profile: str) -> int:
    taken = []
    while (offer := await queues.take(profile, 1.0)) is not None:
        taken.append(offer)
    for offer in taken:
        await offer.done()
    return len(taken)


@pytest.fixture(params=["local", "rabbitmq"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "local":
        yield LocalBench()
        return
    broker = Broker(request.getfixturevalue("amqp_url"))
    await broker.start()
    await declare_topology(broker.connection)
    rabbit = RabbitBench(broker)
    yield rabbit
    await rabbit.queues.stop()
    await broker.stop()


def offer(**payload: object) -> Offer:
    return Offer(
        job_id=uuid4(),
        attempt=1,
        service="checksum",
        payload=payload,
        payload_salt="00" * 16,
        payload_digest="00" * 32,
        timeout_seconds=60,
        expires_at=1_800_000_000_000,
    )


async def take(queues: WorkQueues, profile: str = "p", wait: float = SOON) -> TakenOffer:
    taken = await queues.take(profile, wait)
    assert taken is not None
    return taken


async def test_an_offer_is_taken_as_it_was_published(bench: Bench) -> None:
    """What is taken equals what was published, to the last member of its payload."""
    published = offer(text="ü\U0001f600", nothing=None, number=0.1, nested={"a": [None, 1]})

    assert await bench.queues.publish("p", [[published]]) == []

    assert published == (await take(bench.queues)).offer


async def test_a_large_offer_of_a_blob(bench: Bench) -> None:
    """An offer without a payload names the blob instead."""
    published = offer().model_copy(update={"payload": None, "payload_blob": "blob:" + "0" * 64})
    await bench.queues.publish("p", [[published]])

    assert published == (await take(bench.queues)).offer


async def test_done_takes_it_off_the_queue(bench: Bench) -> None:
    """After `done` nobody gets the offer again."""
    await bench.queues.publish("p", [[offer()]])

    await (await take(bench.queues)).done()

    assert await bench.queues.take("p", A_MOMENT) is None


async def test_back_gives_it_to_another_taker(bench: Bench) -> None:
    """After `back` another taker gets the same offer."""
    published = offer()
    await bench.queues.publish("p", [[published]])

    await (await take(bench.queues)).back()

    assert published == (await take(bench.queues)).offer


async def test_settling_twice_counts_once(bench: Bench) -> None:
    """The first of `done` and `back` counts; repeating either changes nothing."""
    await bench.queues.publish("p", [[offer()], [offer()]])
    first, second = await take(bench.queues), await take(bench.queues)

    await first.done()
    await first.back()
    await second.back()
    await second.back()
    await second.done()

    assert await bench.left("p") == 1


async def test_offers_come_in_the_order_in_which_they_were_published(bench: Bench) -> None:
    """The dispatcher orders its window, and the queue keeps that order."""
    published = [offer(i=i) for i in range(6)]
    await bench.queues.publish("p", [published[:1], published[1:4], published[4:]])

    assert published == [(await take(bench.queues)).offer for _ in published]


async def test_a_bundle_is_split_between_takers(bench: Bench) -> None:
    """Takers share a bundle; one that puts its part back does not disturb the others'."""
    published = [offer(i=i) for i in range(3)]
    await bench.queues.publish("p", [published])
    first, second, third = [await take(bench.queues) for _ in published]

    await second.back()
    await first.done()
    again = await take(bench.queues)
    await again.done()
    await third.done()

    assert published == [t.offer for t in (first, second, third)]
    assert published[1] == again.offer
    assert await bench.left("p") == 0


async def test_a_bundle_of_which_only_a_part_is_taken(bench: Bench) -> None:
    """What nobody takes of a bundle stays for others, also while the taken part is still unsettled."""
    published = [offer(i=i) for i in range(3)]
    await bench.queues.publish("p", [published])

    first = await take(bench.queues)
    await asyncio.sleep(2 * A_MOMENT)  # the poll is over; the rest is nobody's
    others = {(await take(bench.queues)).offer.job_id for _ in range(2)}

    assert {o.job_id for o in published} == others | {first.offer.job_id}


async def test_take_waits_for_an_offer_and_wakes_when_it_comes(bench: Bench) -> None:
    """A waiting poll is answered as soon as there is an offer, not when its time is over."""
    waiting = asyncio.create_task(bench.queues.take("p", 60))
    done, _ = await asyncio.wait([waiting], timeout=A_MOMENT)
    assert not done

    published = offer()
    await bench.queues.publish("p", [[published]])

    taken = await asyncio.wait_for(waiting, SOON)
    assert taken is not None
    assert published == taken.offer


async def test_take_gives_up_when_its_time_is_over(bench: Bench) -> None:
    """A poll that finds nothing returns None after its wait, and neither hangs nor returns early."""
    started = asyncio.get_running_loop().time()

    assert await bench.queues.take("p", 0.3) is None

    assert 0.29 <= asyncio.get_running_loop().time() - started < SOON


async def test_take_without_waiting(bench: Bench) -> None:
    """A poll that does not wait still finds what is there."""
    assert await bench.queues.take("p", 0) is None

    await bench.queues.publish("p", [[offer()]])

    assert await bench.queues.take("p", 0) is not None


async def test_many_wait_and_each_gets_its_own(bench: Bench) -> None:
    """No two takers get the same untouched offer, and nobody waits while there is one."""
    takers = [asyncio.create_task(take(bench.queues)) for _ in range(20)]
    await asyncio.sleep(0)
    published = [offer(i=i) for i in range(20)]

    await bench.queues.publish("p", [published[:1], published[1:4], published[4:10], published[10:]])
    taken = await asyncio.gather(*takers)

    assert sorted(str(o.job_id) for o in published) == sorted(str(t.offer.job_id) for t in taken)
    for each in taken:
        await each.done()
    assert await bench.left("p") == 0


async def test_a_cancelled_poll_loses_nothing(bench: Bench) -> None:
    """A poll that is cancelled while it waits leaves later offers to others."""
    waiting = asyncio.create_task(bench.queues.take("p", 60))
    await asyncio.wait([waiting], timeout=A_MOMENT)

    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    published = offer()
    await bench.queues.publish("p", [[published]])

    assert published == (await take(bench.queues)).offer


async def test_polls_that_are_cancelled_while_offers_arrive_lose_nothing(bench: Bench) -> None:
    """Cancelling at every moment of an offer's way leaves each offer to exactly one taker in the end."""
    published = [offer(i=i) for i in range(30)]
    got: list[TakenOffer] = []

    async def poll() -> None:
        while (taken := await bench.queues.take("p", 60)) is not None:
            got.append(taken)

    publishing = asyncio.create_task(bench.queues.publish("p", [[o] for o in published]))
    for pause in range(15):
        polling = asyncio.create_task(poll())
        for _ in range(pause * 3):
            await asyncio.sleep(0)
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
    assert await publishing == []

    for each in got:
        await each.done()
    assert len(published) == len(got) + await bench.left("p")


async def test_profiles_do_not_mix(bench: Bench) -> None:
    """An offer of one profile is not seen by takers of another."""
    await bench.queues.publish("one", [[offer()]])

    assert await bench.queues.take("other", A_MOMENT) is None
    assert await bench.queues.take("one", SOON) is not None


async def test_a_profile_that_nobody_made_a_queue_for(bench: Bench) -> None:
    """Taking from it finds nothing, and publishing to it arrives: queues are made when they are needed."""
    assert await bench.queues.take("new", 0) is None

    assert await bench.queues.publish("newer", [[offer()]]) == []

    assert await bench.queues.take("newer", SOON) is not None


async def test_ensure_may_be_repeated(bench: Bench) -> None:
    """Making a queue again does nothing to what is on it."""
    await bench.queues.ensure("p")
    await bench.queues.publish("p", [[offer()]])
    await asyncio.gather(*(bench.queues.ensure("p") for _ in range(5)))

    assert await bench.left("p") == 1


async def test_hints_wait_in_a_mailbox() -> None:
    """A local hint waits for its miner, in a mailbox that keeps the newest and no other miner's."""
    hints = LocalHints()
    waiting = asyncio.create_task(hints.wait("bob", SOON))
    await asyncio.sleep(0)

    await hints.send("alice", {"hint": "drain"})
    await hints.send("bob", {"hint": "register"})

    assert await waiting == [{"hint": "register"}]
    assert hints.collect("bob") == []
    for attempt in range(150):
        await hints.send("bob", {"hint": "cancel", "attempt": attempt})
    assert [hint["attempt"] for hint in hints.collect("bob")] == list(range(50, 150))
    assert await hints.wait("alice", 0) == [{"hint": "drain"}]
