"""Lists of jobs: filtered and in order, each page at a bounded price however many jobs there are.

Client, state and time are found by indexes. Service and miner are looked for among the MAX_LOOKED_AT jobs
that come next; a page may therefore have few jobs, or none, and still a cursor that goes on.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BeforeValidator, Field

from coordinator.domain.messages import MinerId, Name, ServiceId
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.reading import PageQuery, cursor_after, read_cursor
from coordinator.edge.models.base import moment
from coordinator.edge.models.jobs import JobState

MAX_LOOKED_AT: Final = 2000
_CURSOR: Final = (r"[0-9]{1,16}", r"[0-9a-f-]{36}")
_FIRST: Final = (-1, "")
_LAST: Final = (2**62, "")
Key = tuple[int, str]


def _is_written_out(value: object) -> object:
    """A number would be taken for seconds since 1970, which nobody has meant."""
    if isinstance(value, str) and not re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("should be a moment such as 2026-01-31T12:00:00Z")
    return value


Rfc3339 = Annotated[AwareDatetime, BeforeValidator(_is_written_out)]


class JobsQuery(PageQuery):
    """Which jobs, in which order."""

    state: JobState | None = Field(None, description="Only those in this state.")
    service: ServiceId | None = Field(None, description="Only those of this service: its id, or an alias.")
    since: Rfc3339 | None = Field(None, description="Only those asked for at or after this moment.")
    until: Rfc3339 | None = Field(None, description="Only those asked for before this moment.")
    order: Literal["newest", "oldest"] = Field("newest", description="Which come first.")


class AllJobsQuery(JobsQuery):
    """The same for admins."""

    client: Name | None = Field(None, description="Only this client's.")
    miner: MinerId | None = Field(None, description="Only those that this miner runs, or ran last.")


async def read_jobs(
    context: EdgeContext, query: JobsQuery, client: str | None, miner: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """A page of rows, and the cursor that goes on. None as `client` and `miner` is everybody's.

    Raises Refusal.
    """
    # 1. Which index, and between which keys.
    statement = "read_jobs" + ("_of_client" if client else "") + ("_in_state" if query.state else "")
    statement += "_oldest" if query.order == "oldest" else ""
    asked: dict[str, Any] = {"client": client} if client else {}
    asked |= {"state": query.state} if query.state else {}
    low = (_millis(query.since), "") if query.since else _FIRST
    high = (_millis(query.until), "") if query.until else _LAST
    cursor = read_cursor(query.cursor, *_CURSOR)
    if cursor is not None:
        key = (int(cursor[0]), cursor[1])
        low, high = (max(low, _behind(key)), high) if query.order == "oldest" else (low, min(high, key))
    # 2. How far this page may look, where an index does not find all that is asked for.
    service = await context.gateway.canonical(query.service) if query.service else ""
    reach: Key | None = None
    if service or miner:
        found = await context.read(
            f"{statement}_reach", **asked, **_between(low, high), skip=MAX_LOOKED_AT - 1
        )
        if found:
            reach = (found[0]["requested_at"], found[0]["job_id"])
            low, high = (low, _behind(reach)) if query.order == "oldest" else (reach, high)
    # 3. The rows; one more than is shown tells whether there is another page.
    rows = await context.read(
        statement,
        **asked,
        **_between(low, high),
        service=service,
        miner=miner or "",
        page_size=query.limit + 1,
    )
    shown = rows[: query.limit]
    end: Key | None = reach
    if len(rows) > len(shown):
        end = (shown[-1]["requested_at"], shown[-1]["job_id"])
    return shown, cursor_after(str(end[0]), end[1]) if end else None


def _between(low: Key, high: Key) -> dict[str, Any]:
    return {"from_at": low[0], "from_id": low[1], "to_at": high[0], "to_id": high[1]}


def _behind(key: Key) -> Key:
    """The key right behind this one: ids have one length, so none is in between."""
    return (key[0], f"{key[1]}!")


def _millis(at: datetime) -> int:
    return (at - moment(0)) // timedelta(milliseconds=1)
