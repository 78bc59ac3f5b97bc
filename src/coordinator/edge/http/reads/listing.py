"""Lists of jobs and of miners. A page of jobs has a bounded cost, however many jobs there are.

Client, state and time are found by indexes. Service and miner are looked for among the next MAX_LOOKED_AT
jobs, so a page may have few jobs, or none, and still a cursor.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BeforeValidator, Field

from coordinator.application.search.places import JobKey
from coordinator.domain.job import JobStateName
from coordinator.domain.messages import NAME, MinerId, Name, ServiceId
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.reads.reading import PageQuery, cursor_after, read_cursor
from coordinator.edge.models.base import moment
from coordinator.edge.models.miners import MinerState
from coordinator.edge.state.tables.read_models import JobFilter
from coordinator.edge.state.tables.rows import JobRow

MAX_LOOKED_AT: Final = 2000
MINER_CURSOR: Final = f"({NAME}@)?{NAME}"
_CURSOR: Final = (r"[0-9]{1,16}", r"[0-9a-f-]{36}")
_FIRST: Final = JobKey(-1, "")
_LAST: Final = JobKey(2**62, "")


def _is_written_out(value: object) -> object:
    """Refuse numbers, which pydantic would read as seconds since 1970."""
    if isinstance(value, str) and not re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("should be a moment such as 2026-01-31T12:00:00Z")
    return value


Rfc3339 = Annotated[AwareDatetime, BeforeValidator(_is_written_out)]


class JobsQuery(PageQuery):
    """The filters and the order of a list of jobs."""

    state: JobStateName | None = Field(None, description="Only jobs in this state.")
    service: ServiceId | None = Field(None, description="Only jobs of this service: its id, or an alias.")
    since: Rfc3339 | None = Field(None, description="Only jobs submitted at or after this moment.")
    until: Rfc3339 | None = Field(None, description="Only jobs submitted before this moment.")
    order: Literal["newest", "oldest"] = Field("newest", description="Which jobs come first.")


class AllJobsQuery(JobsQuery):
    """The same for admins."""

    client: Name | None = Field(None, description="Only this client's jobs.")
    miner: MinerId | None = Field(None, description="Only jobs that this miner runs, or ran last.")


class MinersQuery(PageQuery):
    """The filters of a list of miners."""

    state: MinerState | None = Field(None, description="Only miners in this state.")


async def read_jobs(
    context: EdgeContext, query: JobsQuery, client: str | None, miner: str | None = None
) -> tuple[list[JobRow], str | None]:
    """A page of jobs, and the cursor of the next page. `client` and `miner`: None for all.

    Raises Refusal.
    """
    # 1. The index, and the range of its keys.
    low = JobKey(_millis(query.since), "") if query.since else _FIRST
    high = JobKey(_millis(query.until), "") if query.until else _LAST
    oldest_first = query.order == "oldest"
    cursor = read_cursor(query.cursor, *_CURSOR)
    if cursor is not None:
        key = JobKey(int(cursor[0]), cursor[1])
        low, high = (max(low, _key_after(key)), high) if oldest_first else (low, min(high, key))
    which = JobFilter(low, high, client or "", query.state or "", oldest_first)
    # 2. The last job that this page may look at, if no index covers the filters.
    service = await context.gateway.canonical(query.service) if query.service else ""
    reach: JobKey | None = None
    if service or miner:
        reach = await context.reads.job_key_after(which, skip=MAX_LOOKED_AT - 1)
        if reach is not None:
            which = which._replace(high=_key_after(reach)) if oldest_first else which._replace(low=reach)
    # 3. The rows; one more than is shown, which tells whether there is another page.
    rows = await context.reads.jobs(which, service, miner or "", page_size=query.limit + 1)
    shown = rows[: query.limit]
    end = reach
    if len(rows) > len(shown):
        end = JobKey(shown[-1].requested_at, shown[-1].job_id)
    return shown, cursor_after(str(end.requested_at), end.job_id) if end else None


def _key_after(key: JobKey) -> JobKey:
    """The key right after this one: all ids have the same length, so none is in between."""
    return JobKey(key.requested_at, f"{key.job_id}!")


def _millis(at: datetime) -> int:
    return (at - moment(0)) // timedelta(milliseconds=1)
