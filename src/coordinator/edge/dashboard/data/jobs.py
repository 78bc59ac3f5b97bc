"""The page Jobs: a query, the jobs that match it in pages, and their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coordinator.application.search.jobs import Count, FoundJob, FoundPage
from coordinator.application.search.query import JobQuery, QueryError
from coordinator.domain.job import JobStateName
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer

__all__ = ["Count", "FoundJob", "FoundPage", "JobQuery", "QueryError", "count", "newer", "search", "states"]

PAGE_SIZE: Final = 50


@dataclass(frozen=True, slots=True)
class StateCount:
    """The number of jobs in one state."""

    state: JobStateName
    count: Count


async def search(
    context: EdgeContext, viewer: Viewer, query: JobQuery, cursor: str | None = None, limit: int = PAGE_SIZE
) -> FoundPage:
    """A page of the jobs that match, newest first. Raises Refusal for an invalid query or cursor."""
    raise NotImplementedError


async def newer(context: EdgeContext, viewer: Viewer, query: JobQuery, anchor: str) -> Count:
    """How many jobs match that were asked for after the `anchor` of a page. Raises Refusal."""
    raise NotImplementedError


async def count(context: EdgeContext, viewer: Viewer, query: JobQuery) -> Count:
    """How many jobs match, up to a bound. Raises Refusal."""
    raise NotImplementedError


async def states(context: EdgeContext, viewer: Viewer) -> tuple[StateCount, ...]:
    """The number of jobs in each state, up to a bound."""
    raise NotImplementedError
