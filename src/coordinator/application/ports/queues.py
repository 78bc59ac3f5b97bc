"""The broker: offers on work queues, hints to miners, and published events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from coordinator.application.ports.log import Recorded
from coordinator.wire.offers import Offer


class TakenOffer(Protocol):
    """An offer taken from a queue; its taker must settle it with `done` or `back`."""

    @property
    def offer(self) -> Offer: ...

    async def done(self) -> None:
        """The offer was claimed, or is useless: take it off the queue."""

    async def back(self) -> None:
        """Put the offer back for another taker."""


Waiter = asyncio.Future[TakenOffer | None]
"""A taker that waits. Whoever ends its wait without an offer sets None, unless it is done already."""


class WorkQueues(Protocol):
    """One queue of offers per profile."""

    @property
    def system(self) -> str:
        """The messaging system, as traces name it."""

    async def ensure(self, profile: str) -> None:
        """Create the profile's queue if it is missing."""

    async def publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        """Put bundles of offers on the queue; a bundle is one message. Returns offers that did not arrive."""

    @property
    def shortest_wait(self) -> float:
        """Seconds that a waiter needs to get an offer that is on the queue already."""

    def wait(self, profile: str, waiter: Waiter) -> None:
        """Give this waiter the next offer, now or later, unless it is done by then. Costs no task."""

    def leave(self, profile: str, waiter: Waiter) -> None:
        """This waiter waits no longer."""

    async def take(self, profile: str, wait: float) -> TakenOffer | None:
        """One offer, after a wait of up to `wait` seconds."""

    def at_hand(self, profile: str, most: int) -> Sequence[TakenOffer]:
        """Up to `most` offers that need no wait; may miss some."""

    def on_reset(self, callback: Callable[[], None]) -> None:
        """Call back when the content of the queues becomes unknown (the broker came back)."""


class Hints(Protocol):
    """Hints to one miner: a lost hint costs time, never correctness."""

    async def send(self, miner_id: str, hint: Mapping[str, Any]) -> None:
        """`{"hint": "cancel", "job_id", "attempt"}`, `{"hint": "drain", "session_id"}` or
        `{"hint": "register"}`.
        """


class EventSink(Protocol):
    """The destination of published events."""

    async def publish(self, events: Sequence[Recorded]) -> None:
        """Returns once all events are confirmed; raises otherwise, and the caller repeats all of them."""


class BrokerMismatch(Exception):
    """The broker has something of this name that is not this coordinator's. The text says what to do."""
