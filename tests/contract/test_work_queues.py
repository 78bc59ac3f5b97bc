"""The contract of `WorkQueues`, which the queues in memory and those on RabbitMQ both keep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from coordinator.application.dispatch.local_queues import LocalHints, LocalWorkQueues
from coordinator.application.ports import TakenOffer, WorkQueues
from coordinator.broker.connection import Broker
from coordinator.broker.offers import RabbitWorkQueues
from coordinator.broker.polls import waiting_polls
from coordinator.broker.topology import declare_topology
from coordinator.wire.offers import Offer
from tests.harness.keys import SIGNER

SOON = 30.0
"""Seconds in which what must happen has happened, on a slow machine too."""
A_MOMENT = 0.2
"""Seconds after which what has not happened is taken for not happening."""


@pytest.fixture(params=["local", "rabbitmq"])
async def queues(request: pytest.FixtureRequest) -> AsyncIterator[WorkQueues]:
    if request.param == "local":
        yield LocalWorkQueues()
        return
    broker = Broker(request.getfixturevalue("amqp_url"))
    await broker.start()
    await declare_topology(broker.connection)
    rabbit = RabbitWorkQueues(broker, SIGNER)
    yield rabbit
    await rabbit.stop()
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


async def take_the_rest(queues: WorkQueues, count: int) -> set[UUID]:
    """The jobs of the offers that are on the queue, which are so many and no more.

    What is put back comes before what is published later: an offer too many would come before the last one.
    """
    rest = [await take(queues) for _ in range(count)]
    for taken in rest:
        await taken.done()
    last = offer()
    await queues.publish("p", [[last]])
    assert last == (await take(queues)).offer
    return {taken.offer.job_id for taken in rest}


async def test_an_offer_is_taken_as_it_was_published(queues: WorkQueues) -> None:
    """What is taken equals what was published, to the last member of its payload."""
    published = offer(text="ü\U0001f600", nothing=None, number=0.1, nested={"a": [None, 1]})

    assert await queues.publish("p", [[published]]) == []

    assert published == (await take(queues)).offer


async def test_a_large_offer_of_a_blob(queues: WorkQueues) -> None:
    """An offer without a payload names the blob instead."""
    published = offer().model_copy(update={"payload": None, "payload_blob": "blob:" + "0" * 64})
    await queues.publish("p", [[published]])

    assert published == (await take(queues)).offer


async def test_done_takes_it_off_the_queue(queues: WorkQueues) -> None:
    """After `done` nobody gets the offer again."""
    await queues.publish("p", [[offer()]])

    await (await take(queues)).done()

    assert await queues.take("p", A_MOMENT) is None


async def test_back_gives_it_to_another_taker(queues: WorkQueues) -> None:
    """After `back` another taker gets the same offer."""
    published = offer()
    await queues.publish("p", [[published]])

    await (await take(queues)).back()

    assert published == (await take(queues)).offer


async def test_settling_twice_counts_once(queues: WorkQueues) -> None:
    """The first of `done` and `back` counts; repeating either changes nothing."""
    await queues.publish("p", [[offer()], [offer()]])
    first, second = await take(queues), await take(queues)

    await first.done()
    await first.back()
    await second.back()
    await second.back()
    await second.done()

    assert {second.offer.job_id} == await take_the_rest(queues, 1)


async def test_offers_come_in_the_order_in_which_they_were_published(queues: WorkQueues) -> None:
    """The dispatcher orders its window, and the queue keeps that order."""
    published = [offer(i=i) for i in range(6)]
    await queues.publish("p", [published[:1], published[1:4], published[4:]])

    assert published == [(await take(queues)).offer for _ in published]


async def test_a_bundle_is_split_between_takers(queues: WorkQueues) -> None:
    """Takers share a bundle; one that puts its part back does not disturb the others'."""
    published = [offer(i=i) for i in range(3)]
    await queues.publish("p", [published])
    first, second, third = [await take(queues) for _ in published]

    await second.back()
    await first.done()
    again = await take(queues)
    await again.done()
    await third.done()

    assert published == [t.offer for t in (first, second, third)]
    assert published[1] == again.offer
    await take_the_rest(queues, 0)


async def test_a_bundle_of_which_only_a_part_is_taken(queues: WorkQueues) -> None:
    """What nobody takes of a bundle stays for others, also while the taken part is still unsettled."""
    published = [offer(i=i) for i in range(3)]
    await queues.publish("p", [published])

    first = await take(queues)
    await asyncio.sleep(2 * A_MOMENT)  # the poll is over; the rest is nobody's
    others = {(await take(queues)).offer.job_id for _ in range(2)}

    assert {o.job_id for o in published} == others | {first.offer.job_id}


async def test_take_waits_for_an_offer_and_wakes_when_it_comes(queues: WorkQueues) -> None:
    """A waiting poll is answered as soon as there is an offer, not when its time is over."""
    waiting = asyncio.create_task(queues.take("p", 60))
    done, _ = await asyncio.wait([waiting], timeout=A_MOMENT)
    assert not done

    published = offer()
    await queues.publish("p", [[published]])

    taken = await asyncio.wait_for(waiting, SOON)
    assert taken is not None
    assert published == taken.offer


async def test_take_gives_up_when_its_time_is_over(queues: WorkQueues) -> None:
    """A poll that finds nothing returns None after its wait, and neither hangs nor returns early."""
    started = asyncio.get_running_loop().time()

    assert await queues.take("p", 0.3) is None

    assert 0.29 <= asyncio.get_running_loop().time() - started < SOON


async def test_take_without_waiting(queues: WorkQueues, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that does not wait still finds what is there."""
    assert await queues.take("p", 0) is None

    await queues.publish("p", [[offer()]])
    monkeypatch.setattr(
        waiting_polls, "SHORTEST_WAIT_SECONDS", SOON
    )  # a busy broker takes longer to be asked

    assert await queues.take("p", 0) is not None


async def test_many_wait_and_each_gets_its_own(queues: WorkQueues) -> None:
    """No two takers get the same untouched offer, and nobody waits while there is one."""
    takers = [asyncio.create_task(take(queues)) for _ in range(20)]
    await asyncio.sleep(0)
    published = [offer(i=i) for i in range(20)]

    await queues.publish("p", [published[:1], published[1:4], published[4:10], published[10:]])
    taken = await asyncio.gather(*takers)

    assert sorted(str(o.job_id) for o in published) == sorted(str(t.offer.job_id) for t in taken)
    for each in taken:
        await each.done()
    await take_the_rest(queues, 0)


async def test_a_cancelled_poll_loses_nothing(queues: WorkQueues) -> None:
    """A poll that is cancelled while it waits leaves later offers to others."""
    waiting = asyncio.create_task(queues.take("p", 60))
    await asyncio.wait([waiting], timeout=A_MOMENT)

    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    published = offer()
    await queues.publish("p", [[published]])

    assert published == (await take(queues)).offer


async def test_polls_that_are_cancelled_while_offers_arrive_lose_nothing(queues: WorkQueues) -> None:
    """Cancelling at every moment of an offer's way leaves each offer to exactly one taker in the end."""
    published = [offer(i=i) for i in range(30)]
    got: list[TakenOffer] = []

    async def poll() -> None:
        while (taken := await queues.take("p", 60)) is not None:
            got.append(taken)

    publishing = asyncio.create_task(queues.publish("p", [[o] for o in published]))
    for pause in range(15):
        polling = asyncio.create_task(poll())
        for _ in range(pause * 3):
            await asyncio.sleep(0)
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
    assert await publishing == []

    for each in got:
        await each.done()
    rest = await take_the_rest(queues, len(published) - len(got))
    assert {o.job_id for o in published} == {taken.offer.job_id for taken in got} | rest


async def test_profiles_do_not_mix(queues: WorkQueues) -> None:
    """An offer of one profile is not seen by takers of another."""
    await queues.publish("one", [[offer()]])

    assert await queues.take("other", A_MOMENT) is None
    assert await queues.take("one", SOON) is not None


async def test_a_profile_that_nobody_made_a_queue_for(queues: WorkQueues) -> None:
    """Taking from it finds nothing, and publishing to it arrives: queues are made when they are needed."""
    assert await queues.take("new", 0) is None

    assert await queues.publish("newer", [[offer()]]) == []

    assert await queues.take("newer", SOON) is not None


async def test_ensure_may_be_repeated(queues: WorkQueues) -> None:
    """Making a queue again does nothing to what is on it."""
    await queues.ensure("p")
    published = offer()
    await queues.publish("p", [[published]])
    await asyncio.gather(*(queues.ensure("p") for _ in range(5)))

    assert {published.job_id} == await take_the_rest(queues, 1)


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
