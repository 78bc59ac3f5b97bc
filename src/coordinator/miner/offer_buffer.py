"""The buffer of offers between the work queue and the slots.

The broker sends a miner as many messages as its prefetch allows, even if no slot is free. So while every slot
is busy this miner stops consuming and puts its messages back, for an idle miner of the same profile. It waits
a little before: between two short jobs every slot is busy for a moment, and to consume again costs a round
trip.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from coordinator.wire.offers import Offer

PAUSE_AFTER_SECONDS = 0.05
"""Stop consuming if every slot has been busy for so long."""
PAUSE_UNANSWERED_AFTER_SECONDS = 1.0
"""The same if a slot only waits for an answer, and so will soon be free."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Bundle:
    """One message of the work queue and its offers. It is settled once, as a whole.

    `settle(True)` takes the message off the queue, once all its offers are done. `settle(False)` puts it
    back, as soon as one of them has to go back. This miner may get the offers of such a message again; the
    slots remember the attempts that they have served.
    """

    __slots__ = ("_left", "_settle", "offers", "settled")

    def __init__(self, offers: Sequence[Offer], settle: Callable[[bool], None]) -> None:
        self.offers = offers
        self.settled = False
        self._left = len(offers)
        self._settle = settle

    def one_done(self) -> None:
        """One more of its offers is done."""
        self._left -= 1
        if self._left <= 0 and not self.settled:
            self.settled = True
            self._settle(True)

    def back(self) -> None:
        """Put the message back."""
        if not self.settled:
            self.settled = True
            self._settle(False)


class BufferedOffer:
    """An offer out of a bundle (a `HeldOffer`)."""

    __slots__ = ("_bundle", "_settled", "offer")
    claimed = False

    def __init__(self, offer: Offer, bundle: Bundle) -> None:
        self.offer = offer
        self._bundle = bundle
        self._settled = False

    def done(self) -> None:
        if not self._settled:
            self._settled = True
            self._bundle.one_done()

    def back(self) -> None:
        if not self._settled:
            self._settled = True
            self._bundle.back()


class OfferBuffer:
    """Gives offers to the callers of `take`; `wanted` says whether to consume.

    `on_change` is called whenever `wanted` has changed. The consumer calls `give_back` after it has stopped,
    since messages may arrive until then.
    """

    def __init__(
        self,
        on_change: Callable[[], None],
        *,
        now: Callable[[], float] = time.monotonic,
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        self._on_change = on_change
        self._now = now
        self._call_later = call_later or _loop_call_later
        self._offers: deque[tuple[Offer, Bundle]] = deque()
        self._takers: deque[asyncio.Future[BufferedOffer | None]] = deque()
        self._timer: Timer | None = None
        self._last_free = now()
        self._paused = False
        self._suspended = True
        self._ended = False
        self.unanswered = 0
        """Commands about jobs that wait for their answers; each keeps a slot that will soon be free."""

    @property
    def wanted(self) -> bool:
        """Whether the miner can use offers now."""
        return not (self._paused or self._suspended or self._ended)

    def put(self, bundle: Bundle) -> None:
        """Take a message from the queue."""
        if not self.wanted:
            bundle.back()
            return
        self._offers.extend((offer, bundle) for offer in bundle.offers)
        while self._has_takers() and (held := self._next()) is not None:
            self._takers.popleft().set_result(held)
        self._watch()

    async def take(self) -> BufferedOffer | None:
        """Wait for an offer; None after `end`. Cancelling it loses nothing."""
        self._last_free = self._now()
        held = self._next()
        if held is not None:
            self._watch()
            return held
        if self._ended:
            return None
        if self._paused:
            self._paused = False
            self._on_change()
        taker: asyncio.Future[BufferedOffer | None] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        try:
            return await taker
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled() and (held := taker.result()) is not None:
                held.back()
            raise

    def give_back(self) -> None:
        """Put back every message with an offer that no slot has taken."""
        for bundle in {id(bundle): bundle for _, bundle in self._offers}.values():
            bundle.back()
        self._offers.clear()

    def forget(self) -> None:
        """The connection is gone: drop all messages, as the broker has put them back."""
        self._offers.clear()

    def suspend(self) -> None:
        """Want no offers until `resume`."""
        self._suspended = True
        self._on_change()

    def resume(self) -> None:
        """Want offers again."""
        self._suspended = False
        self._paused = False
        self._last_free = self._now()
        self._on_change()
        self._watch()

    def end(self) -> None:
        """Want no more offers; waiting callers of `take` get None."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for taker in self._takers:
            if not taker.done():
                taker.set_result(None)
        self._takers.clear()
        self._on_change()

    def _next(self) -> BufferedOffer | None:
        while self._offers:
            offer, bundle = self._offers.popleft()
            if not bundle.settled:
                return BufferedOffer(offer, bundle)
        return None

    def _watch(self) -> None:
        """Check later whether every slot is still busy."""
        if self._timer is None and self.wanted and not self._has_takers():
            self._timer = self._call_later(PAUSE_AFTER_SECONDS, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self.wanted or self._has_takers():
            return
        busy_for = self._now() - self._last_free
        allowed = PAUSE_UNANSWERED_AFTER_SECONDS if self.unanswered else PAUSE_AFTER_SECONDS
        if busy_for >= allowed:
            self._paused = True
            self._on_change()
        else:
            # Not `allowed - busy_for`: if the answers come sooner, the short limit applies.
            self._timer = self._call_later(min(PAUSE_AFTER_SECONDS, allowed - busy_for), self._check)

    def _has_takers(self) -> bool:
        while self._takers and self._takers[0].done():
            self._takers.popleft()
        return bool(self._takers)


def _loop_call_later(seconds: float, callback: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, callback)
