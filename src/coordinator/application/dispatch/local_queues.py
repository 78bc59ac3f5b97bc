"""Work queues, hints and event sink inside one process, for embedded mode: no broker, nothing on disk.

Offers are lost with the process; the dispatcher makes them again from its tables at the next start.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from coordinator.application.dispatch.claims import take_within
from coordinator.application.ports import Recorded, TakenOffer, Waiter
from coordinator.telemetry import names
from coordinator.wire.offers import Offer

MAILBOX_LENGTH = 100
"""Hints kept for a miner that does not collect them; the oldest are dropped first."""


class _Queue:
    """One profile's offers, and the takers that wait for them."""

    def __init__(self) -> None:
        self.offers: deque[Offer] = deque()
        self._queued: set[tuple[UUID, int]] = set()
        """The attempts in `offers`, so that a repeated offer is queued once."""
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        """Those that wait longest first."""

    def put(self, offer: Offer, *, first: bool = False) -> None:
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(_LocalOffer(offer, self))
                return
        key = (offer.job_id, offer.attempt)
        if key in self._queued:
            return
        self._queued.add(key)
        if first:
            self.offers.appendleft(offer)
        else:
            self.offers.append(offer)

    def pop(self) -> Offer:
        offer = self.offers.popleft()
        self._queued.discard((offer.job_id, offer.attempt))
        return offer


class _LocalOffer:
    """`TakenOffer` of a local queue, which has removed it already."""

    def __init__(self, offer: Offer, queue: _Queue) -> None:
        self._offer = offer
        self._queue = queue
        self._settled = False

    @property
    def offer(self) -> Offer:
        return self._offer

    async def done(self) -> None:
        self._settled = True

    async def back(self) -> None:
        if not self._settled:
            self._settled = True
            self._queue.put(self._offer, first=True)


class LocalWorkQueues:
    """`WorkQueues` in memory. Used from one event loop."""

    system = names.IN_PROCESS
    shortest_wait = 0.0

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    async def ensure(self, profile: str) -> None:
        self._queue(profile)

    async def publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        queue = self._queue(profile)
        for bundle in bundles:
            for offer in bundle:
                queue.put(offer)
        return []

    def wait(self, profile: str, waiter: Waiter) -> None:
        queue = self._queue(profile)
        if queue.offers:
            waiter.set_result(_LocalOffer(queue.pop(), queue))
        else:
            queue.waiters[waiter] = None

    def leave(self, profile: str, waiter: Waiter) -> None:
        self._queue(profile).waiters.pop(waiter, None)

    async def take(self, profile: str, wait: float) -> TakenOffer | None:
        return await take_within(self, profile, wait)

    def at_hand(self, profile: str, most: int) -> Sequence[TakenOffer]:
        queue = self._queue(profile)
        return [_LocalOffer(queue.pop(), queue) for _ in range(min(most, len(queue.offers)))]

    def on_reset(self, callback: Callable[[], None]) -> None:
        """Never called back: the content of these queues is known for the life of the process."""

    def _queue(self, profile: str) -> _Queue:
        return self._queues.setdefault(profile, _Queue())


class LocalHints:
    """`Hints` in memory: a bounded mailbox per miner, emptied by the connection to that miner."""

    def __init__(self) -> None:
        self._mailboxes: dict[str, deque[Mapping[str, Any]]] = {}
        self._arrivals: dict[str, asyncio.Event] = {}

    async def send(self, miner_id: str, hint: Mapping[str, Any]) -> None:
        self._mailboxes.setdefault(miner_id, deque(maxlen=MAILBOX_LENGTH)).append(hint)
        if arrival := self._arrivals.get(miner_id):
            arrival.set()

    def collect(self, miner_id: str) -> list[Mapping[str, Any]]:
        """Remove and return the miner's hints, oldest first."""
        return list(self._mailboxes.pop(miner_id, ()))

    async def wait(self, miner_id: str, timeout: float) -> list[Mapping[str, Any]]:
        """Like `collect`, after a wait of up to `timeout` seconds for the first hint."""
        if miner_id not in self._mailboxes:
            arrival = self._arrivals.setdefault(miner_id, asyncio.Event())
            try:
                async with asyncio.timeout(timeout):
                    await arrival.wait()
            except TimeoutError:
                pass
            finally:
                self._arrivals.pop(miner_id, None)
        return self.collect(miner_id)


class NullEventSink:
    """`EventSink` without subscribers: in embedded mode all readers read the log."""

    async def publish(self, events: Sequence[Recorded]) -> None:
        pass
