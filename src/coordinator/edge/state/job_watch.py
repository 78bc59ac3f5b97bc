"""The watch for ends of jobs: told by this process's memory, or by one query for all other awaited jobs.

The query is made each time the read models move. It finds the ends of jobs that this process has not
in memory: another process records their events, or they were over before anybody waited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from uuid import UUID

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.ports import Watermarks
from coordinator.edge.state.tables.read_models import PROJECTOR, ReadModels

MAX_JOBS_IN_QUERY: Final = 500
AGAIN_SECONDS: Final = 0.5
"""Before the next query after one that failed."""

log = structlog.get_logger("edge")


class JobWatch:
    """Tells waiting requests that their job is final. One task watches while any request waits."""

    def __init__(
        self,
        reads: ReadModels,
        watermarks: Watermarks,
        look_seconds: float,
        known_end: Callable[[UUID], bool | None] = lambda _: None,
    ) -> None:
        """`look_seconds`: between checks of the jobs while no follower moves.

        `known_end`: whether a job is final, by its state in memory; None: memory has no state of it. The end
        of a job in memory is told by `note_end`.
        """
        self._reads = reads
        self._watermarks = watermarks
        self._look_seconds = look_seconds
        self._known_end = known_end
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._watcher = BackgroundTask("job-watch")

    @contextlib.contextmanager
    def ended(self, job_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set once the job is final.

        It is also set if that can't be found out, so read the job again. Read it after entering, too, and
        before waiting: an earlier end does not set the event.
        """
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        self._watcher.start(self._watch)
        try:
            yield event
        finally:
            events = self._waiting[job_id]
            events.discard(event)
            if not events:
                del self._waiting[job_id]

    @property
    def is_watching(self) -> bool:
        """Whether any request waits for a job."""
        return bool(self._waiting)

    def note_end(self, job_id: UUID) -> None:
        """The job is final, and memory knows how, before the read models do."""
        self._wake([job_id])

    async def stop(self) -> None:
        """Stop watching, and wake all waiting requests. May be called twice, or when none waits."""
        await self._watcher.stop()
        self._wake(list(self._waiting))

    async def _watch(self) -> None:
        while self._waiting:
            # Read before the query: events after it make `reached` return at once.
            seen = self._watermarks.of(PROJECTOR)
            known = {job_id: self._known_end(job_id) for job_id in self._waiting}
            self._wake(job_id for job_id, final in known.items() if final)
            jobs = [job_id for job_id, final in known.items() if final is None]
            try:
                for start in range(0, len(jobs), MAX_JOBS_IN_QUERY):
                    some = jobs[start : start + MAX_JOBS_IN_QUERY]
                    final = await self._reads.final_jobs([str(job_id) for job_id in some])
                    self._wake(map(UUID, final))
                await self._watermarks.reached(PROJECTOR, seen + 1, self._look_seconds)
            except Exception as error:
                # The woken requests read their jobs themselves, and answer with the error.
                log.warning("can't watch jobs", error=type(error).__name__)
                self._wake(list(self._waiting))
                await asyncio.sleep(AGAIN_SECONDS)

    def _wake(self, job_ids: Iterable[UUID]) -> None:
        for job_id in job_ids:
            for event in self._waiting.get(job_id, ()):
                event.set()
