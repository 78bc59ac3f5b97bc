"""How many jobs wait for a miner, read from the tables at most every FRESH_SECONDS."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from coordinator.application.ports import LogUnavailable
from coordinator.edge.state.tables.read_models import ReadModels
from coordinator.edge.state.tables.rows import BacklogRow

FRESH_SECONDS: Final = 5.0
READ_SECONDS: Final = 2.0
"""A scrape waits no longer for the tables: it reports them as out of reach, beside its other metrics."""


class Backlog:
    """Reads the backlog, once for all requests within FRESH_SECONDS."""

    def __init__(self, reads: ReadModels) -> None:
        self._reads = reads
        self._read_at = float("-inf")
        self._known: BacklogRow | None = None
        self._reading = asyncio.Lock()

    async def get(self) -> BacklogRow | None:
        """None if the tables are out of reach."""
        async with self._reading:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                self._known = None
                with contextlib.suppress(LogUnavailable, TimeoutError):
                    async with asyncio.timeout(READ_SECONDS):
                        self._known = await self._reads.backlog()
                self._read_at = time.monotonic()
            return self._known
