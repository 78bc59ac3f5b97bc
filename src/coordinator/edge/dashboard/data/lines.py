"""Jobs by their ids, for rows that stay on a page while their jobs change."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.application.search.found import FoundJob
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer


async def lines(context: EdgeContext, viewer: Viewer, job_ids: Sequence[str]) -> tuple[FoundJob, ...]:
    """Those of these jobs that this viewer may see, in no order; unknown ones are absent. Raises Refusal."""
    client = viewer.client
    rows = await context.reads.job_lines(job_ids)
    return tuple(job for job in (FoundJob(**row) for row in rows) if client in (None, job.client))
