"""The capabilities of live miners, by profile, as far as the registry has jobs for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.domain.matching.needs import Capabilities
from coordinator.edge.state.tables.read_models import ReadModels

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
        self._retired: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    @property
    def retired(self) -> frozenset[str]:
        """The services that take no jobs any more, as of the last reading."""
        return self._retired

    async def get(self, stale_after: float = STALE_AFTER_S) -> Sequence[Offering]:
        """The capabilities of online miners without retired services, at most `stale_after` seconds old."""
        async with self._reading:
            if time.monotonic() - self._read_at > stale_after:
                rows = await self._reads.offerings()
                self._retired = await self._reads.retired_services()
                self._known = [Offering(self._offered(row.capabilities_json), row.since) for row in rows]
                self._read_at = time.monotonic()
            return self._known

    def _offered(self, text: str) -> Capabilities:
        """The capabilities without retired services."""
        capabilities = Capabilities.model_validate_json(text)
        kept = tuple(service for service in capabilities.services if service not in self._retired)
        return capabilities.model_copy(update={"services": kept})
