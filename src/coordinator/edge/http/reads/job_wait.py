"""Waiting for a job's end, as long as the request prefers (`Prefer: wait=N`, RFC 7240)."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Final
from uuid import UUID

from pydantic.config import JsonDict

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.reads.reading import find_job
from coordinator.edge.state.tables.rows import JobRow

_PREFERRED_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=[,;]|$)", re.IGNORECASE)
_WAIT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
WAIT_SCHEMA: Final[JsonDict] = {"pattern": f"^{_WAIT.pattern}$", "examples": ["30"]}
"""The schema of the parameter `wait`. It is checked here, so that a refusal has our own text."""


def wait_asked(wait: str | None, prefer: str | None, longest: float) -> tuple[float, dict[str, str]]:
    """The seconds to wait, and the headers that confirm them. Raises Refusal."""
    if wait is not None:
        if not _WAIT.fullmatch(wait):
            raise Refusal(Code.INVALID_PAYLOAD, "wait: should be a number of seconds")
        return min(float(wait), longest), {}
    preferred = _PREFERRED_WAIT.search(prefer or "")
    if preferred is None:
        return 0.0, {}
    seconds = min(int(preferred[1]), int(longest))
    return float(seconds), {"Preference-Applied": f"wait={seconds}"}


async def final_job(context: EdgeContext, principal: Principal, job_id: UUID, seconds: float) -> JobRow:
    """The job once it is final, or its state after `seconds`. Raises Refusal."""
    if not seconds or context.stopping.is_set():
        return await find_job(context, principal, job_id)
    with context.job_watch.ended(job_id) as ended:
        row = await find_job(context, principal, job_id)
        if row.is_final:
            return row
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)
    return await find_job(context, principal, job_id)
