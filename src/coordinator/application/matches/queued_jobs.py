"""The jobs that wait for a miner, by class, from the dispatcher's table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from coordinator.application.ports import Database
from coordinator.domain.matching.miner_report import QueuedClass
from coordinator.domain.matching.needs import Needs

STALE_AFTER_S: Final = 5.0
"""To count a million queued jobs takes a moment."""
MAX_CLASSES: Final = 2000
"""The classes with the most queued jobs; those beyond are not looked at."""
MAX_BEFORE: Final = 10_000


class QueuedJobs:
    """Reads the queued jobs. Used on the event loop; the tables are read in threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: list[QueuedClass] = []
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def classes(self) -> Sequence[QueuedClass]:
        """The classes with queued jobs, at most STALE_AFTER_S seconds old. Raises LogUnavailable."""
        async with self._reading:
            if time.monotonic() - self._read_at > STALE_AFTER_S:
                self._known = await asyncio.to_thread(self._read)
                self._read_at = time.monotonic()
            return self._known

    async def own_before(self, client: str, job_class: str, priority: int, position: int) -> int:
        """The client's queued jobs of this class that go before this one: MAX_BEFORE at most."""

        def count() -> int:
            with self._database.transaction() as tables:
                [row] = tables.query(
                    "match_own_before",
                    client=client,
                    job_class=job_class,
                    priority=priority,
                    position=position,
                    most=MAX_BEFORE,
                )
            jobs: int = row["jobs"]
            return jobs

        return await asyncio.to_thread(count)

    async def running_of(self, miner_id: str, session_id: str) -> int:
        """The attempts that this session holds."""

        def count() -> int:
            with self._database.transaction() as tables:
                [row] = tables.query("match_running_of", miner_id=miner_id, session_id=session_id)
            attempts: int = row["attempts"]
            return attempts

        return await asyncio.to_thread(count)

    def _read(self) -> list[QueuedClass]:
        with self._database.transaction() as tables:
            rows = tables.query("match_queued_classes", most=MAX_CLASSES)
        return [
            QueuedClass(row["service"], Needs.model_validate_json(row["constraints_json"]), row["queued"])
            for row in rows
        ]
