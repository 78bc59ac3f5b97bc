"""The events that a leading follower has acted on, until its tables have them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from coordinator.application.followers.follower import Follower
from coordinator.application.ports import Recorded


class UnstoredEvents:
    """The events that a leader has acted on and the tables do not have yet: the one batch that is being
    stored now, and the later events, which gather until they are due.
    """

    def __init__(
        self,
        follower: Follower,
        position: int,
        store: Callable[[Sequence[Recorded]], Coroutine[Any, Any, None]],
        on_stored: Callable[[], None],
        is_needed: Callable[[], bool],
    ) -> None:
        """`on_stored` is called after a batch was stored or failed; call `note_stored` then.

        `is_needed`: whether somebody waits for the tables.
        """
        self.position = position
        """The position of the last event acted on."""
        self._follower = follower
        self._store = store
        self._on_stored = on_stored
        self._now = asyncio.get_running_loop().time
        self._waiting: list[Recorded] = []
        self._due = 0.0
        self._is_needed = is_needed
        self._rested = 0.0
        """When the next transaction may begin."""
        self._storing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether any events wait to be stored."""
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """Whether a whole batch waits."""
        return len(self._waiting) >= self._follower.batch

    def add(self, events: Sequence[Recorded]) -> None:
        """Add events that were acted on. The first waiting event sets the due time of all."""
        if not self._waiting:
            self._due = max(self._now() + self._follower.linger_seconds, self._rested)
        self._waiting += events
        self.position = events[-1].position

    def due_in(self) -> float:
        """Seconds until the waiting events are due; infinity if none wait or a batch is being stored."""
        if not self._waiting or self._storing:
            return math.inf
        if self.full or self._follower.hurried or self._is_needed():
            return 0.0
        return max(0.0, self._due - self._now())

    def begin_to_store(self) -> None:
        """Begin to store the waiting events, in parallel to new ones."""
        self._follower.gather()
        self._rested = self._now() + self._follower.rest_seconds
        self._storing = asyncio.create_task(self._store(self._waiting))
        self._storing.add_done_callback(lambda _: self._on_stored())
        self._waiting = []

    def note_stored(self) -> None:
        """Allow the next batch once the current one is stored. Raises its error, and then keeps the batch."""
        if self._storing and self._storing.done():
            self._storing.result()
            self._storing = None

    async def store_all(self) -> None:
        """Store all events, in order. Raises the error of the first batch that fails."""
        if self._storing:
            await self._storing
        if self._waiting:
            self._follower.gather()
            await self._store(self._waiting)

    async def join(self) -> None:
        """Wait for the end of the current batch, stored or failed."""
        if self._storing:
            await asyncio.gather(self._storing, return_exceptions=True)
