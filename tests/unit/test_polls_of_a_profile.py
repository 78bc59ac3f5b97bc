"""How offers reach the waiting polls of a profile: in memory, spare for a moment, or by lazy consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from aiormq import Channel
from aiormq.abc import DeliveredMessage
from pydantic_core import to_json

from coordinator.application.ports import TakenOffer, Waiter
from coordinator.broker.polls.backlog import SIT_SECONDS, Backlog
from coordinator.broker.polls.consumers import EXCESS_SECONDS, MAX_CONSUMERS, QueueConsumers
from coordinator.broker.polls.handover import LATELY_SECONDS, SPARE_SECONDS, Handover
from coordinator.wire.offers import Offer
from coordinator.wire.signed_messages import OFFER_MS, offer_for
from tests.harness.keys import SIGNER
from tests.harness.offers import an_offer


class Moments:
    """The event loop's clock, which stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    async def go(self, seconds: float = 0.0) -> None:
        """Let this time pass, and all that is due happen."""
        self.now += seconds
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def moments(monkeypatch: pytest.MonkeyPatch) -> Moments:
    moments = Moments()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: moments.now)
    return moments


class Own:
    """A source of offers that remembers which come back."""

    def __init__(self) -> None:
        self.back: list[Offer] = []

    def note_taken(self) -> None:
        pass

    async def done(self) -> None:
        pass

    async def put_back(self, offers: Sequence[Offer]) -> None:
        self.back += offers


def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


def bundles(*sizes: int) -> list[list[Offer]]:
    numbers = iter(range(1, sum(sizes) + 1))
    return [[an_offer(job_id=UUID(int=next(numbers))) for _ in range(size)] for size in sizes]


def numbers(offers: Sequence[Offer]) -> list[int]:
    return [offer.job_id.int for offer in offers]


def poll(place: Handover) -> Waiter:
    waiter: Waiter = asyncio.get_running_loop().create_future()
    place.wait(waiter)
    return waiter


def taken_by(waiter: Waiter) -> TakenOffer:
    taken = waiter.result()
    assert taken is not None
    return taken


def number_of(waiter: Waiter) -> int:
    return taken_by(waiter).offer.job_id.int


# --- the handover -------------------------------------------------------------------------------------------
async def test_the_poll_that_waits_longest_gets_the_first_offer(moments: Moments) -> None:
    """Offers go to the polls in the order of their waits; the rest is for the queue."""
    place = Handover(spawn)
    polls = [poll(place) for _ in range(3)]
    polls[1].set_result(None)  # its miner has gone

    left = place.hand_over(Own(), bundles(1, 1, 1), spare=False)

    assert [1, 2] == [number_of(polls[0]), number_of(polls[2])]
    assert [[3]] == [numbers(bundle) for bundle in left]


async def test_as_many_are_spare_as_were_taken_lately(moments: Moments) -> None:
    """Spare offers are for polls that come at once; a profile that nobody polled lately has none."""
    place = Handover(spawn)
    assert [[1], [2]] == [numbers(b) for b in place.hand_over(Own(), bundles(1, 1), spare=True)]
    polls = [poll(place) for _ in range(2)]

    left = place.hand_over(Own(), bundles(1, 1, 1, 1, 1), spare=True)

    assert [1, 2] == [number_of(each) for each in polls]
    assert [[5]] == [numbers(bundle) for bundle in left]
    assert [3, 4] == [number_of(poll(place)) for _ in range(2)]
    await moments.go(LATELY_SECONDS + 0.01)
    assert 0 == place.room


async def test_the_rest_of_a_bundle_stays_with_its_first_offer(moments: Moments) -> None:
    """A poll that takes several offers finds those of the bundle at hand, even if none else may be spare."""
    place = Handover(spawn)
    polling = poll(place)

    left = place.hand_over(Own(), bundles(3, 2), spare=False)

    assert 1 == number_of(polling)
    assert [2, 3] == numbers([taken.offer for taken in place.at_hand(5)])
    assert [[4, 5]] == [numbers(bundle) for bundle in left]


async def test_spare_offers_go_back_after_a_moment(moments: Moments) -> None:
    """What no poll takes in time goes back to its source, once."""
    place, own = Handover(spawn), Own()
    poll(place)
    place.hand_over(own, bundles(3), spare=False)
    await moments.go(SPARE_SECONDS / 2)
    assert 2 == number_of(poll(place))

    await moments.go(SPARE_SECONDS)

    assert [3] == numbers(own.back)
    assert place.at_hand(5) == []


async def test_an_offer_that_comes_back_goes_to_the_next_poll(moments: Moments) -> None:
    """Without a waiting poll its source has it back; what was settled stays settled."""
    place, own = Handover(spawn), Own()
    first, second = poll(place), poll(place)
    place.hand_over(own, bundles(1), spare=False)

    await taken_by(first).back()
    await taken_by(first).back()
    assert 1 == number_of(second)
    assert own.back == []

    await taken_by(second).back()
    await taken_by(second).done()
    assert [1] == numbers(own.back)


# --- the backlog --------------------------------------------------------------------------------------------
def test_a_queue_may_hold_something_until_a_consumer_sits() -> None:
    """At the start nothing is known; a consumer without a message for a while says that it is empty."""
    backlog = Backlog()
    assert backlog.may_hold([], 10.0)
    assert backlog.may_hold([10.0], 10.0 + SIT_SECONDS / 2)

    assert not backlog.may_hold([10.0], 10.0 + SIT_SECONDS)
    assert not backlog.may_hold([], 11.0)

    backlog.note_arrived()  # another process has published
    assert backlog.may_hold([], 12.0)


def test_our_own_messages_are_counted_out_and_in() -> None:
    """The queue is empty again once all that we published has come back, or others must have got it."""
    backlog = Backlog()
    assert not backlog.may_hold([0.0], 1.0)
    backlog.note_published(2, 1.0)
    backlog.note_arrived()
    assert backlog.may_hold([0.0], 1.0)
    backlog.note_arrived()
    assert not backlog.may_hold([], 1.0)

    backlog.note_published(1, 2.0)
    assert backlog.may_hold([0.0], 2.0 + SIT_SECONDS / 2)
    assert not backlog.may_hold([0.0], 2.0 + 2 * SIT_SECONDS)


# --- consumers ----------------------------------------------------------------------------------------------
class Link:
    """A broker that remembers its consumers, and delivers when it is told."""

    def __init__(self) -> None:
        self.trust = SIGNER.trust()
        self.stopped = False
        self.consumers: dict[str, Callable[[DeliveredMessage], Coroutine[Any, Any, None]]] = {}
        self.started = 0
        self.calls: list[str] = []
        self.published: list[Offer] = []

    async def channel(self) -> Channel:
        return cast("Channel", self)

    async def ensure(self, profile: str) -> int:
        return len(self.consumers)

    async def put_back(self, profile: str, offers: Sequence[Offer]) -> bool:
        self.published += offers
        return True

    async def basic_consume(self, queue: str, callback: Any, *, consumer_tag: str) -> None:
        self.consumers[consumer_tag] = callback
        self.started += 1

    async def basic_cancel(self, tag: str) -> None:
        self.calls.append("cancel")
        del self.consumers[tag]

    async def basic_ack(self, tag: int) -> None:
        self.calls.append("ack")

    async def basic_reject(self, tag: int, requeue: bool) -> None:
        self.calls.append("reject")

    async def deliver(self, offers: Sequence[Offer]) -> None:
        body = to_json(list(offers), exclude_none=True)
        header = SimpleNamespace(
            properties=SimpleNamespace(headers=SIGNER.headers(offer_for("p"), body, OFFER_MS))
        )
        message = SimpleNamespace(body=body, header=header, delivery_tag=1)
        await next(iter(self.consumers.values()))(cast("DeliveredMessage", message))


class Profile:
    """A profile's polls and consumers."""

    def __init__(self) -> None:
        self.link = Link()
        self.place = Handover(spawn)
        self.consumers = QueueConsumers("p", self.link, self.place, spawn)

    def poll(self) -> Waiter:
        waiter = poll(self.place)
        self.consumers.balance()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        self.place.leave(waiter)
        self.consumers.balance()

    async def find_it_empty(self, moments: Moments) -> None:
        """A poll waits for a while, and its consumer gets nothing."""
        waiter = self.poll()
        await moments.go()
        await moments.go(SIT_SECONDS)
        assert not self.consumers.may_hold
        self.leave(waiter)
        await moments.go(EXCESS_SECONDS)
        assert not self.link.consumers


@pytest.fixture
def profile(moments: Moments) -> Iterator[Profile]:
    profile = Profile()
    yield profile
    profile.link.stopped = True


async def test_consumers_start_at_once_while_the_queue_may_hold_something(
    profile: Profile, moments: Moments
) -> None:
    """Each waiting poll has one, up to a limit: nobody knows what is on the queue."""
    for _ in range(MAX_CONSUMERS + 5):
        profile.poll()
    await moments.go()
    await moments.go()

    assert MAX_CONSUMERS == len(profile.link.consumers)


async def test_polls_of_an_empty_queue_get_consumers_after_a_while(
    profile: Profile, moments: Moments
) -> None:
    """Polls that soon get an offer in memory cost the broker nothing; one that waits has a consumer."""
    await profile.find_it_empty(moments)
    for _ in range(10):
        profile.poll()
        profile.place.hand_over(Own(), bundles(1), spare=False)
        await moments.go(SIT_SECONDS / 2)
    assert 1 == profile.link.started

    profile.poll()
    await moments.go(SIT_SECONDS)

    assert 2 == profile.link.started
    assert 1 == len(profile.link.consumers)


async def test_what_we_publish_is_fetched_at_once(profile: Profile, moments: Moments) -> None:
    """A poll that comes after we published has its consumer immediately."""
    await profile.find_it_empty(moments)
    profile.consumers.note_published(1)

    profile.poll()
    await moments.go()

    assert 1 == len(profile.link.consumers)


async def test_a_consumer_serves_one_poll_after_the_other(profile: Profile, moments: Moments) -> None:
    """It is neither started nor cancelled for each offer; unneeded, it is cancelled after a while."""
    for number in range(1, 6):
        waiter = profile.poll()
        await moments.go()
        await profile.link.deliver([an_offer(job_id=UUID(int=number))])
        assert number == number_of(waiter)
        await taken_by(waiter).done()
        await moments.go(EXCESS_SECONDS / 10)
    assert ["ack"] * 5 == profile.link.calls
    assert 1 == profile.link.started

    await moments.go(EXCESS_SECONDS)
    await moments.go(EXCESS_SECONDS)

    assert not profile.link.consumers


async def test_an_untaken_message_goes_back_without_its_consumer(profile: Profile, moments: Moments) -> None:
    """A message that no poll takes is rejected after its consumer was cancelled, or it would come again."""
    waiter = profile.poll()
    await moments.go()
    profile.leave(waiter)
    await profile.link.deliver(bundles(2)[0])

    await moments.go(SPARE_SECONDS + 0.01)

    assert ["cancel", "reject"] == profile.link.calls
    assert profile.link.published == []
    assert profile.consumers.may_hold


async def test_the_untaken_part_of_a_message_is_published_anew(profile: Profile, moments: Moments) -> None:
    """The taken part is acknowledged with its message."""
    waiter = profile.poll()
    await moments.go()
    await profile.link.deliver(bundles(3)[0])
    await moments.go(SPARE_SECONDS + 0.01)

    assert [2, 3] == numbers(profile.link.published)
    assert profile.link.calls == []
    await taken_by(waiter).done()
    assert ["ack"] == profile.link.calls


async def test_a_channel_that_was_reopened(profile: Profile, moments: Moments) -> None:
    """What it had delivered comes again, so that no copy stays here; waiting polls have new consumers."""
    profile.poll()
    await moments.go()
    await profile.link.deliver(bundles(3)[0])
    profile.link.consumers.clear()

    profile.consumers.reset()
    taken = profile.place.at_hand(9)
    profile.poll()
    await moments.go()

    assert taken == []
    assert 1 == len(profile.link.consumers)
