"""The positions of followers, for reads that ask for at least a position."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coordinator.application.ports import Database, LogUnavailable

POLL_SECONDS = 0.05  # between queries for the position of a follower that another process leads


class LocalWatermarks:
    """Positions of followers: announced by the leaders in this process, else read from the table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._positions: dict[str, int] = {}
        self._local: set[str] = set()
        self._moved = asyncio.Event()
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._needed: dict[str, int] = {}
        self._hurries: dict[str, Callable[[], None]] = {}

    def leads(self, follower: str, *, here: bool) -> None:
        """Note whether this process leads the follower and so announces its position."""
        (self._local.add if here else self._local.discard)(follower)

    def on_hurry(self, follower: str, callback: Callable[[], None]) -> None:
        """Call back when somebody begins to wait for this follower's position."""
        self._hurries[follower] = callback

    def hurry(self, follower: str, position: int) -> None:
        """See `ports.Watermarks`."""
        if position > max(self.of(follower), self._needed.get(follower, 0)):
            self._needed[follower] = position
            if follower in self._hurries:
                self._hurries[follower]()

    def is_needed(self, follower: str) -> bool:
        """Whether somebody waits for a position that the follower has not reached."""
        return self._needed.get(follower, 0) > self.of(follower)

    def moved(self, follower: str, position: int) -> None:
        self._positions[follower] = max(position, self._positions.get(follower, 0))
        woken, self._moved = self._moved, asyncio.Event()
        woken.set()

    def of(self, follower: str) -> int:
        return self._positions.get(follower, 0)

    async def reached(self, follower: str, position: int, timeout: float) -> bool:
        """See `ports.Watermarks`."""
        try:
            async with asyncio.timeout(timeout):
                while self.of(follower) < position:
                    if follower not in self._local and follower not in self._polls:
                        self._polls[follower] = asyncio.create_task(self._poll(follower))
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def _poll(self, follower: str) -> None:
        """One query for all waiting callers; they start the next one if the position is still too low."""
        try:
            await asyncio.sleep(POLL_SECONDS)
            stored = await asyncio.to_thread(self._stored, follower)
        except LogUnavailable:
            stored = 0
        finally:
            del self._polls[follower]
        self.moved(follower, stored)

    def _stored(self, follower: str) -> int:
        with self._database.transaction() as tables:
            return tables.position(follower)
