"""When a miner takes offers, and when it gives them back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest

from coordinator.miner.offer_buffer import (
    PAUSE_AFTER_SECONDS,
    PAUSE_UNANSWERED_AFTER_SECONDS,
    BufferedOffer,
    Bundle,
    OfferBuffer,
)
from coordinator.wire.offers import Offer


class Moments:
    """A clock that stands still, and the timers that were set on it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.timers: list[Moments.Timer] = []

    class Timer:
        def __init__(self, due: float, callback: Callable[[], None]) -> None:
            self.due, self.callback, self.canceled = due, callback, False

        def cancel(self) -> None:
            self.canceled = True

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Moments.Timer:
        self.timers.append(Moments.Timer(self.seconds + seconds, callback))
        return self.timers[-1]

    def go_on(self, seconds: float) -> None:
        until = self.seconds + seconds
        while due := [t for t in self.timers if t.due <= until and not t.canceled]:
            timer = min(due, key=lambda t: t.due)
            self.timers.remove(timer)
            self.seconds = max(self.seconds, timer.due)
            timer.callback()
        self.seconds = until


class Queue:
    """A buffer on a clock, and the messages that were settled."""

    def __init__(self) -> None:
        self.moments = Moments()
        self.changes = 0
        self.settled: dict[str, bool] = {}
        self.buffer = OfferBuffer(
            self._changed, now=lambda: self.moments.seconds, call_later=self.moments.call_later
        )
        self.buffer.resume()

    def _changed(self) -> None:
        self.changes += 1

    def put(self, *names: str) -> None:
        self.buffer.put(
            Bundle([offer(name) for name in names], lambda done: self.settled.update({"+".join(names): done}))
        )

    def take(self) -> asyncio.Task[BufferedOffer | None]:
        return asyncio.create_task(self.buffer.take())


def offer(name: str) -> Offer:
    return Offer(
        job_id=uuid4(),
        attempt=1,
        service=name,
        payload={},
        payload_salt="",
        payload_digest="",
        timeout_seconds=1,
        expires_at=0,
    )


@pytest.fixture
def queue() -> Queue:
    return Queue()


async def test_offers_go_to_whoever_waits(queue: Queue) -> None:
    """Offers are handed out in order, to waiting slots first, and kept for the next otherwise."""
    waiting = [queue.take(), queue.take()]
    await asyncio.sleep(0)
    queue.put("a")
    queue.put("b", "c")
    held = [await task for task in waiting] + [await queue.buffer.take()]
    assert [h.offer.service for h in held if h] == ["a", "b", "c"]


async def test_message_is_acknowledged_when_all_its_offers_are_done(queue: Queue) -> None:
    """A bundle leaves the queue with its last offer, and settling an offer twice counts once."""
    queue.put("a", "b")
    first, second = await queue.buffer.take(), await queue.buffer.take()
    assert first
    assert second
    first.done()
    first.done()
    assert queue.settled == {}
    second.done()
    assert queue.settled == {"a+b": True}


async def test_one_offer_back_takes_its_message_back(queue: Queue) -> None:
    """When one offer goes back its message does, once, and untaken offers of it are gone from here."""
    queue.put("a", "b")
    first = await queue.buffer.take()
    assert first
    first.back()
    assert queue.settled == {"a+b": False}
    queue.put("c")
    held = await queue.buffer.take()
    assert held
    assert held.offer.service == "c"


async def test_pauses_when_every_slot_is_busy(queue: Queue) -> None:
    """With no slot free for the grace period the buffer wants no offers, and gives back what nobody took."""
    queue.put("a")
    queue.put("b")
    await queue.buffer.take()
    queue.moments.go_on(PAUSE_AFTER_SECONDS - 0.001)
    assert queue.buffer.wanted
    queue.moments.go_on(0.001)
    assert not queue.buffer.wanted
    queue.buffer.give_back()
    assert queue.settled == {"b": False}


async def test_no_pause_while_a_slot_is_free(queue: Queue) -> None:
    """One slot that waits for work is reason enough to go on consuming."""
    waiting = queue.take()
    await asyncio.sleep(0)
    queue.put("a")
    await waiting
    idle = queue.take()
    await asyncio.sleep(0)
    queue.moments.go_on(60)
    assert queue.buffer.wanted
    idle.cancel()


async def test_short_jobs_never_pause(queue: Queue) -> None:
    """A slot that comes back within the grace period every time keeps the consumer."""
    for n in range(10):
        queue.put(str(n))
        await queue.buffer.take()
        queue.moments.go_on(PAUSE_AFTER_SECONDS * 0.9)
    assert queue.buffer.wanted


async def test_slot_that_waits_for_an_answer_counts_as_nearly_free(queue: Queue) -> None:
    """While a command about a job is unanswered the patience is longer, and not endless."""
    queue.buffer.unanswered = 1
    queue.put("a")
    await queue.buffer.take()
    queue.moments.go_on(PAUSE_UNANSWERED_AFTER_SECONDS - 0.01)
    assert queue.buffer.wanted
    queue.moments.go_on(0.01)
    assert not queue.buffer.wanted


async def test_answer_ends_the_longer_patience(queue: Queue) -> None:
    """Once the claim is answered, and so the slot works, the short grace period holds."""
    queue.buffer.unanswered = 1
    queue.put("a")
    await queue.buffer.take()
    queue.moments.go_on(PAUSE_AFTER_SECONDS * 2)
    queue.buffer.unanswered = 0
    queue.moments.go_on(PAUSE_AFTER_SECONDS)
    assert not queue.buffer.wanted


async def test_free_slot_ends_the_pause(queue: Queue) -> None:
    """A slot that asks for work makes the buffer want offers again, and the consumer is told."""
    queue.put("a")
    await queue.buffer.take()
    queue.moments.go_on(PAUSE_AFTER_SECONDS)
    queue.put("late")
    assert queue.settled == {"late": False}
    changes = queue.changes
    task = queue.take()
    await asyncio.sleep(0)
    assert queue.buffer.wanted
    assert queue.changes == changes + 1
    queue.put("b")
    held = await task
    assert held
    assert held.offer.service == "b"


async def test_suspended_feed_takes_nothing(queue: Queue) -> None:
    """Without a session messages go back at once and a free slot changes nothing, until resumed."""
    queue.buffer.suspend()
    task = queue.take()
    await asyncio.sleep(0)
    assert not queue.buffer.wanted
    queue.put("a")
    assert queue.settled == {"a": False}
    queue.buffer.resume()
    queue.put("b")
    held = await task
    assert held
    assert held.offer.service == "b"


async def test_ended_feed_releases_whoever_waits(queue: Queue) -> None:
    """After the end, who waits and who asks gets None; what was in hand can go back."""
    waiting = queue.take()
    await asyncio.sleep(0)
    queue.buffer.end()
    assert await waiting is None
    assert await queue.buffer.take() is None
    assert not queue.buffer.wanted


async def test_canceled_take_loses_no_offer(queue: Queue) -> None:
    """An offer that meets a cancelled wait goes back to the queue."""
    task = queue.take()
    await asyncio.sleep(0)
    queue.put("a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queue.settled == {"a": False}


async def test_forgotten_messages_are_neither_served_nor_settled(queue: Queue) -> None:
    """When the connection is lost its messages are the broker's again."""
    queue.put("a")
    queue.buffer.forget()
    queue.buffer.give_back()
    assert queue.settled == {}
