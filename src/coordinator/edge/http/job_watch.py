"""Waiting for jobs to end: one query for all who wait, each time the read models move."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Final

import structlog

from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import PROJECTOR, EdgeContext

MAX_JOBS_IN_QUERY = 500
_PREFERRED_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=[,;]|$)", re.IGNORECASE)
_WAIT: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


class JobWatch:
    """Tells who waits for a job that it is final. The one task that watches lives while anyone waits."""

    def __init__(self, context: EdgeContext) -> None:
        self._context = context
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._watcher: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def ended(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set once the job is final.

        It is set too where that can't be found out, so whoever waits looks again. Look after entering and
        before waiting: an end that came earlier is not told.
        """
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch(), name="job-watch")
        try:
            yield event
        finally:
            events = self._waiting[job_id]
            events.discard(event)
            if not events:
                del self._waiting[job_id]

    async def stop(self) -> None:
        """Stop watching; whoever waits looks for itself. May be called twice, or when nobody waits."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        self._wake(list(self._waiting))

    async def _watch(self) -> None:
        context = self._context
        try:
            while self._waiting:
                # Taken before the query: what comes after it makes `reached` return at once.
                seen = context.watermarks.of(PROJECTOR)
                jobs = list(self._waiting)
                for start in range(0, len(jobs), MAX_JOBS_IN_QUERY):
                    some = jobs[start : start + MAX_JOBS_IN_QUERY]
                    rows = await context.read("read_final_jobs", job_ids=some)
                    self._wake([row["job_id"] for row in rows])
                await context.watermarks.reached(PROJECTOR, seen + 1, context.limits.watch_seconds)
        except Exception as error:
            # They find out themselves what is wrong, and answer it.
            structlog.get_logger("edge").warning("can't watch jobs", error=type(error).__name__)
            self._wake(list(self._waiting))

    def _wake(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            for event in self._waiting.get(job_id, ()):
                event.set()


def wait_asked(wait: str | None, prefer: str | None, longest: float) -> tuple[float, dict[str, str]]:
    """How many seconds to wait, and the headers that say so."""
    if wait is not None:
        if not _WAIT.fullmatch(wait):
            raise Refusal(Code.INVALID_PAYLOAD, "wait: should be a number of seconds")
        return min(float(wait), longest), {}
    preferred = _PREFERRED_WAIT.search(prefer or "")
    if preferred is None:
        return 0.0, {}
    seconds = min(int(preferred[1]), int(longest))
    return float(seconds), {"Preference-Applied": f"wait={seconds}"}
