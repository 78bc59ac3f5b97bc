"""The polls that wait for work: each counts as a heartbeat of its miner, without a timer of its own.

One task, which runs while any poll waits, notes the signs of life of all of them in one statement.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import NamedTuple

import structlog

from coordinator.application.ports import LogUnavailable

log = structlog.get_logger("edge")


class ParkedSession(NamedTuple):
    """The session of a miner whose poll waits."""

    miner_id: str
    session_id: str


Seen = Callable[[Collection[ParkedSession]], Awaitable[None]]


class ParkedPolls:
    """Used on the event loop."""

    def __init__(self, seen: Seen, seconds: float) -> None:
        """`seen` notes a sign of life of each session, every `seconds`."""
        self._seen = seen
        self._seconds = seconds
        self._parked: Counter[ParkedSession] = Counter()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """The number of sessions with a poll that waits."""
        return len(self._parked)

    @contextlib.contextmanager
    def parked(self, session: ParkedSession) -> Iterator[None]:
        """A poll of this session waits within the block."""
        self._parked[session] += 1
        if self._task is None:
            self._task = asyncio.create_task(self._keep_noting(), name="parked-polls")
        try:
            yield
        finally:
            self._parked[session] -= 1
            if not self._parked[session]:
                del self._parked[session]

    async def _keep_noting(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._seconds)
                if not self._parked:
                    return
                try:
                    await self._seen(list(self._parked))
                except LogUnavailable:
                    pass  # silence does not count meanwhile
                except Exception:
                    log.exception("signs of life could not be noted")
        finally:
            self._task = None
