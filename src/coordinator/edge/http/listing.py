"""Lists of jobs and of miners. A page of jobs has a bounded price however many jobs there are.

Client, state and time are found by indexes. Service and miner are looked for among the MAX_LOOKED_AT jobs
that come next; a page may therefore have few jobs, or none, and still a cursor that goes on.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BeforeValidator, Field

from coordinator.domain.job import JobStateName
from coordinator.domain.messages import NAME, MinerId, Name, ServiceId
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.reading import PageQuery, cursor_after, read_cursor
from coordinator.edge.models.base import moment
from coordinator.edge.models.miners import MinerState
from coordinator.edge.state.read_models import JobFilter, JobKey
from coordinator.edge.state.rows import JobRow

MAX_LOOKED_AT: Final = 2000
MINER_CURSOR: Final = f"({NAME}@)?{NAME}"
_CURSOR: Final = (r"[0-9]{1,16}", r"[0-9a-f-]{36}")
_FIRST: Final = JobKey(-1, "")
_LAST: Final = JobKey(2**62, "")


def _is_written_out(value: object) -> object:
    """A number would be taken for seconds since 1970, which nobody has meant."""
    if isinstance(value, str) and not re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("should be a moment such as 2026-01-31T12:00:00Z")
    return value


Rfc3339 = Annotated[AwareDatetime, BeforeValidator(_is_written_out)]


class JobsQuery(PageQuery):
    """Which jobs, in which order."""

    state: JobStateName | None = Field(None, description="Only those in this state.")
    service: ServiceId | None = Field(None, description="Only those of this service: its id, or an alias.")
    since: Rfc3339 | None = Field(None, description="Only those asked for at or after this moment.")
    until: Rfc3339 | None = Field(None, description="Only those asked for before this moment.")
    order: Literal["newest", "oldest"] = Field("newest", description="Which come first.")


class AllJobsQuery(JobsQuery):
    """The same for admins."""

    client: Name | None = Field(None, description="Only this client's.")
    miner: MinerId | None = Field(None, description="Only those that this miner runs, or ran last.")


class MinersQuery(PageQuery):
    """Which miners."""

    state: MinerState | None = Field(None, description="Only those in this state.")


async def read_jobs(
    context: EdgeContext, query: JobsQuery, client: str | None, miner: str | None = None
) -> tuple[list[JobRow], str | None]:
    """A page of jobs, and the cursor that goes on. None as `client` and `miner` is everybody's.

    Raises Refusal.
    """
    # 1. Which index, and between which keys.
    low = JobKey(_millis(query.since), "") if query.since else _FIRST
    high = JobKey(_millis(query.until), "") if query.until else _LAST
    oldest_first = query.order == "oldest"
    cursor = read_cursor(query.cursor, *_CURSOR)
    if cursor is not None:
        key = JobKey(int(cursor[0]), cursor[1])
        low, high = (max(low, _behind(key)), high) if oldest_first else (low, min(high, key))
    which = JobFilter(low, high, client or "", query.state or "", oldest_first)
    # 2. How far this page may look, where an index does not find all that is asked for.
    service = await context.gateway.canonical(query.service) if query.service else ""
    reach: JobKey | None = None
    if service or miner:
        reach = await context.reads.job_key_after(which, skip=MAX_LOOKED_AT - 1)
        if reach is not None:
            which = which._replace(high=_behind(reach)) if oldest_first else which._replace(low=reach)
    # 3. The rows; one more than is shown tells whether there is another page.
    rows = await context.reads.jobs(which, service, miner or "", page_size=query.limit + 1)
    shown = rows[: query.limit]
    end = reach
    if len(rows) > len(shown):
        end = JobKey(shown[-1].requested_at, shown[-1].job_id)
    return shown, cursor_after(str(end.requested_at), end.job_id) if end else None


def _behind(key: JobKey) -> JobKey:
    """The key right behind this one: ids have one length, so none is in between."""
    return JobKey(key.requested_at, f"{key.job_id}!")


def _millis(at: datetime) -> int:
    return (at - moment(0)) // timedelta(milliseconds=1)
