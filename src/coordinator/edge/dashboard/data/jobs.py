"""The page Jobs: a query, the jobs that match it in pages, and their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coordinator.application.search.found import Count, FoundJob, FoundPage
from coordinator.application.search.query import FIELDS, JobQuery, QueryError
from coordinator.domain.job import JobStateName
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer

__all__ = [
    "FIELDS",
    "Count",
    "FoundJob",
    "FoundPage",
    "JobQuery",
    "QueryError",
    "count",
    "newer",
    "search",
    "states",
]

PAGE_SIZE: Final = 50
FRESH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class StateCount:
    """The number of jobs in one state."""

    state: JobStateName
    count: Count


async def search(
    context: EdgeContext, viewer: Viewer, query: JobQuery, cursor: str | None = None, limit: int = PAGE_SIZE
) -> FoundPage:
    """A page of the jobs that match, newest first. Raises Refusal for an invalid query or cursor."""
    return await context.search.page(viewer.client, query, cursor, limit)


async def newer(context: EdgeContext, viewer: Viewer, query: JobQuery, anchor: str) -> Count:
    """How many jobs match that were asked for after the `anchor` of a page. Raises Refusal."""
    return await context.search.newer(viewer.client, query, anchor)


async def count(context: EdgeContext, viewer: Viewer, query: JobQuery) -> Count:
    """How many jobs match, up to a bound; up to a second old. Raises Refusal."""
    client = viewer.client

    async def counted() -> Count:
        return (await context.search.count(client, query)).total

    return await context.shared.get(("jobs-count", client, query.text), FRESH_SECONDS, counted)


async def states(context: EdgeContext, viewer: Viewer) -> tuple[StateCount, ...]:
    """The number of jobs in each state, up to a bound; up to a second old. Raises Refusal."""
    client = viewer.client

    async def counted() -> tuple[StateCount, ...]:
        counts = await context.search.states(client)
        return tuple(StateCount(state, counted) for state, counted in counts.items())

    return await context.shared.get(("jobs-states", client), FRESH_SECONDS, counted)
