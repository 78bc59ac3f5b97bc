"""The capabilities of live miners, by profile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.domain.matching import Capabilities
from coordinator.edge.state.read_models import ReadModels

STALE_AFTER_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Offering:
    """The miners of one profile; `since` is when the first of them registered, in Unix milliseconds."""

    capabilities: Capabilities
    since: int


class Offerings:
    """Reads the offerings about once a second, however many requests ask."""

    def __init__(self, reads: ReadModels) -> None:
        self._reads = reads
        self._known: Sequence[Offering] = ()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def get(self, stale_after: float = STALE_AFTER_S) -> Sequence[Offering]:
        """The capabilities of online miners, at most `stale_after` seconds old."""
        async with self._reading:
            if time.monotonic() - self._read_at > stale_after:
                self._known = [
                    Offering(Capabilities.model_validate_json(row.capabilities_json), row.since)
                    for row in await self._reads.offerings()
                ]
                self._read_at = time.monotonic()
            return self._known
