"""The work of a follower, step by step; `runner` calls the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coordinator.application.ports import Recorded, Tables
from coordinator.domain.messages import Event


class Follower(Protocol):
    """The work of one follower: it acts on events immediately and stores their effects in batches."""

    name: str
    batch: int
    """The most events in one batch."""
    tick_seconds: float
    """The longest time between calls of `tick`."""
    linger_seconds: float
    """How long events wait for more of them before they are stored, because a transaction costs a thousand
    times as much as an event."""
    rest_seconds: float
    """The least time between two transactions, unless somebody waits for the position."""

    @property
    def acts_on(self) -> frozenset[type[Event]] | None:
        """The events that `act` needs at once; None for all.

        While events wait to be stored, others do not wake it: it acts on them just before they are stored.
        """

    @property
    def hurried(self) -> bool:
        """Whether the waiting events are needed in the tables now."""

    def take_over(self, tables: Tables) -> None:
        """This process leads now: load the state in memory. In a transaction, in a thread."""

    async def act(self, events: Sequence[Recorded]) -> None:
        """Act on committed events, before the position moves, so at least once."""

    def stand_by(self) -> None:
        """This process does not lead, from now on until the next `take_over`. On the event loop."""

    def gather(self) -> None:
        """All events acted on are about to be applied. On the event loop."""

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        """Write the effects of the events, in the transaction that moves the position. In a thread."""

    async def tick(self, stored_to: int) -> None:
        """Called after events, after a commit, and after `tick_seconds` without either.

        `stored_to`: the position up to which the tables are complete.
        """


class FollowerBase:
    """Does nothing at every step; followers set a name and override the steps that they need."""

    name: str
    batch = 2000
    tick_seconds = 1.0
    linger_seconds = 0.0
    rest_seconds = 0.0
    acts_on: frozenset[type[Event]] | None = None
    hurried = False

    def take_over(self, tables: Tables) -> None:
        return None

    def stand_by(self) -> None:
        return None

    async def act(self, events: Sequence[Recorded]) -> None:
        return None

    def gather(self) -> None:
        return None

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        return None

    async def tick(self, stored_to: int) -> None:
        return None
