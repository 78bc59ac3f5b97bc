"""The holders of leases, for frequent checks of progress reports.

The holder is read from the log once and stays valid until the job's next event, at which the caller must
call `forget`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

from coordinator.application.live.progress import ProgressReport
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import Completed, Running
from coordinator.domain.messages import Principal

MAX_KNOWN = 20_000
NOBODY_SECONDS = 1.0
"""How long "no holder" stays valid, so that a miner that keeps asking does not cost a query each time."""


class LeaseHolder(NamedTuple):
    """The session that holds a job, or held it at completion."""

    client: str
    attempt: int
    miner_id: str
    session_id: str
    running: bool


class LeaseHolders:
    """Remembers the holders of jobs with progress. Used on the event loop only."""

    def __init__(
        self,
        state_of: Callable[[UUID], Awaitable[Any]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`state_of`: a job's state, fresh from the log."""
        self._state_of = state_of
        self._monotonic = monotonic
        self._known: OrderedDict[UUID, tuple[LeaseHolder | None, float]] = OrderedDict()
        self._loading: dict[UUID, asyncio.Task[LeaseHolder | None]] = {}

    def forget(self, job_id: UUID) -> None:
        """Note that the job has a new event."""
        self._known.pop(job_id, None)
        self._loading.pop(job_id, None)

    async def holder(self, job_id: UUID) -> LeaseHolder | None:
        """The current holder of this job, if any. Raises LogUnavailable."""
        found = self._known.get(job_id)
        if found is not None and (found[0] is not None or self._monotonic() < found[1]):
            return found[0]
        loading = self._loading.get(job_id)
        if loading is None:
            loading = self._loading[job_id] = asyncio.create_task(self._load(job_id))
        # Shielded: other callers wait for the same query.
        return await asyncio.shield(loading)

    async def check(self, principal: Principal, report: ProgressReport) -> str:
        """The job's client, if the sender holds the attempt. Raises Refusal, LogUnavailable."""
        if not principal.owns_miner(report.miner_id):
            raise Refusal(Code.FORBIDDEN, f"{principal.name} can't speak for another miner")
        holder = await self.holder(report.job_id)
        if (
            holder is None
            or holder.attempt != report.attempt
            or holder.miner_id != report.miner_id
            or holder.session_id != report.session_id
        ):
            raise Refusal(Code.STALE_ATTEMPT, "this session does not hold this attempt; drop the work")
        return holder.client

    async def _load(self, job_id: UUID) -> LeaseHolder | None:
        loading = asyncio.current_task()
        try:
            holder = _holder(await self._state_of(job_id))
            if self._loading.get(job_id) is loading:  # else the job has a new event
                self._known[job_id] = (holder, self._monotonic() + NOBODY_SECONDS)
                self._known.move_to_end(job_id)
                if len(self._known) > MAX_KNOWN:
                    self._known.popitem(last=False)
            return holder
        finally:
            if self._loading.get(job_id) is loading:
                del self._loading[job_id]


def _holder(state: Any) -> LeaseHolder | None:
    match state:
        case Running():
            held = state.started
            return LeaseHolder(state.job.client, held.attempt, held.miner_id, held.session_id, running=True)
        case Completed():
            # The last progress may arrive just after the result.
            done = state.completed
            return LeaseHolder(state.job.client, done.attempt, done.miner_id, done.session_id, running=False)
    return None
