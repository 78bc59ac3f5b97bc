"""The place where offers meet the waiting polls of one profile, in memory; it knows no broker.

An offer goes to the poll that waits longest. One that no poll waits for is spare for a moment: a miner that
has just finished polls again at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from coordinator.application.dispatch.claims import end_wait
from coordinator.application.ports import Waiter
from coordinator.wire.offers import Offer

SPARE_SECONDS: Final = 0.25
"""How long an offer waits for a further poll before it goes back to the queue."""
LATELY_SECONDS: Final = 0.25
"""As many offers are kept spare as were taken within this time."""

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Source(Protocol):
    """The origin of offers: this process's dispatcher, or one message."""

    def note_taken(self) -> None:
        """One of its offers was handed out."""

    async def done(self) -> None:
        """One of its offers is settled."""

    async def put_back(self, offers: Sequence[Offer]) -> None:
        """No poll here takes these offers."""


class PolledOffer:
    """`TakenOffer` of a poll."""

    __slots__ = ("_offer", "_place", "_settled", "source")

    def __init__(self, offer: Offer, source: Source, place: Handover) -> None:
        self.source = source
        self._offer = offer
        self._place = place
        self._settled = False

    @property
    def offer(self) -> Offer:
        return self._offer

    async def done(self) -> None:
        if not self._settled:
            self._settled = True
            await self.source.done()

    async def back(self) -> None:
        if self._settled:
            return
        self._settled = True
        if not self._place.give(PolledOffer(self._offer, self.source, self._place)):
            await self.source.put_back([self._offer])


class Handover:
    """One profile's waiting polls and spare offers. Used on the event loop."""

    def __init__(self, spawn: Spawn) -> None:
        """`spawn` runs the return of spare offers."""
        self._spawn = spawn
        self._waiters: OrderedDict[Waiter, float] = OrderedDict()
        """Since when each waits; the longest first."""
        self._spare: deque[tuple[float, PolledOffer]] = deque()
        """Each with the end of its time, in this order."""
        self._taken: deque[float] = deque()
        """When offers were taken lately."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        return not (self._waiters or self._spare)

    @property
    def waiting(self) -> int:
        """The number of polls that wait."""
        return len(self._waiters)

    @property
    def waiting_since(self) -> float | None:
        """Since when the first poll waits."""
        return next(iter(self._waiters.values()), None)

    # --- polls ----------------------------------------------------------------------------------------------
    def wait(self, waiter: Waiter) -> None:
        if self._spare:
            waiter.set_result(self._take())
        else:
            self._waiters[waiter] = _now()

    def leave(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter, None)

    def at_hand(self, most: int) -> list[PolledOffer]:
        """Up to `most` of the spare offers."""
        return [self._take() for _ in range(min(most, len(self._spare)))]

    def end_waits(self) -> None:
        """End all waits without an offer."""
        for waiter in self._waiters:
            end_wait(waiter)
        self._waiters.clear()

    # --- offers ---------------------------------------------------------------------------------------------
    @property
    def room(self) -> int:
        """The number of offers that may be kept spare besides those that are."""
        return max(0, len(self._taken_lately()) - len(self._spare))

    def give(self, taken: PolledOffer) -> bool:
        """Give it to the poll that waits longest; False if none waits."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                self._note_taken(taken)
                waiter.set_result(taken)
                return True
        return False

    def keep(self, offers: Sequence[PolledOffer]) -> None:
        """Give them to polls; the rest is spare."""
        until = _now() + SPARE_SECONDS
        self._spare.extend((until, taken) for taken in offers if not self.give(taken))
        self._set_timer()

    def hand_over(
        self, source: Source, bundles: Sequence[Sequence[Offer]], *, spare: bool
    ) -> list[Sequence[Offer]]:
        """Give these offers to polls, with `spare` keep some for the next ones, and return the others.

        The rest of a bundle stays with its first offer: a poll may take several.
        """
        for number, bundle in enumerate(bundles):
            if not self.waiting and not (spare and self.room):
                return list(bundles[number:])
            self.keep([PolledOffer(offer, source, self) for offer in bundle])
        return []

    def forget(self, is_lost: Callable[[Source], bool]) -> None:
        """Forget the spare offers of these sources: they are made or delivered anew."""
        self._spare = deque(entry for entry in self._spare if not is_lost(entry[1].source))

    def take_spare(self) -> list[PolledOffer]:
        """All spare offers, to be put back."""
        spare = [taken for _, taken in self._spare]
        self._spare.clear()
        return spare

    def _take(self) -> PolledOffer:
        _, taken = self._spare.popleft()
        self._note_taken(taken)
        return taken

    def _note_taken(self, taken: PolledOffer) -> None:
        self._taken_lately().append(_now())
        taken.source.note_taken()

    def _taken_lately(self) -> deque[float]:
        earliest = _now() - LATELY_SECONDS
        while self._taken and self._taken[0] < earliest:
            self._taken.popleft()
        return self._taken

    def _set_timer(self) -> None:
        if self._spare and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._spare[0][0], self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        now, over = _now(), []
        while self._spare and self._spare[0][0] <= now:
            over.append(self._spare.popleft()[1])
        for work in returns(over):
            self._spawn(work)
        self._set_timer()


def returns(untaken: Sequence[PolledOffer]) -> list[Coroutine[Any, Any, None]]:
    """The work of putting these offers back, by source."""
    sources: dict[int, tuple[Source, list[Offer]]] = {}
    for taken in untaken:
        sources.setdefault(id(taken.source), (taken.source, []))[1].append(taken.offer)
    return [source.put_back(offers) for source, offers in sources.values()]


def _now() -> float:
    return asyncio.get_running_loop().time()
