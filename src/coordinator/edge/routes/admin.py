"""Reads for admins: all jobs, all miners, and statistics."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.domain.messages import ServiceId
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.credentials import ReaderOfAll
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.listing import MINER_CURSOR, AllJobsQuery, MinersQuery, read_jobs
from coordinator.edge.http.reads.reading import Position, cursor_after, read_cursor, reply
from coordinator.edge.models.health import FollowerView, StatsView
from coordinator.edge.models.jobs import JobPage
from coordinator.edge.models.miners import MinerPage
from coordinator.edge.state.tables.rows import MinerRow

router = APIRouter(prefix="/admin", tags=["admin"])

MINERS_READ: Final = 200  # at a time, while they are filtered by service
MAX_MINERS_LOOKED_AT: Final = 2000


class AllMinersQuery(MinersQuery):
    """The filters of a list of all miners."""

    service: ServiceId | None = Field(
        None, description="Only miners that run this service: its id, or an alias."
    )


@router.get(
    "/stats",
    response_model=StatsView,
    summary="Show statistics",
    description="Queued and running jobs, miners, services, and the positions of followers. Running jobs, "
    "offers and slots are null in a process that does not dispatch. The cost does not grow with past jobs.",
    responses=refusals(Code.FORBIDDEN),
)
async def show_stats(context: Context, _: ReaderOfAll, position: Position) -> Response:
    metrics = context.metrics()
    backlog = await context.backlog.get()
    miners = await context.reads.miners_by_state()
    categories = await context.reads.services_by_category()
    bus, work = metrics.bus, metrics.work
    stats = StatsView.model_validate(
        {
            "mode": metrics.mode,
            "position": metrics.position,
            "broker_up": metrics.broker_up,
            "jobs_queued": None if backlog is None else backlog.queued,
            "oldest_queued_at": None if backlog is None else backlog.oldest_at,
            "jobs_running": None if work is None else work.running,
            "offers": None if work is None else work.offered,
            "slots": None if work is None else work.slots,
            "busy_slots": None if work is None else work.busy_slots,
            "miners": miners,
            "services": sum(categories.values()),
            "commands": 0 if bus is None else bus.commands,
            "refusals": {} if bus is None else dict(bus.refusals),
            "events": {} if bus is None else dict(bus.events),
            "followers": {
                name: FollowerView(status=f.status, position=f.position)
                for name, f in metrics.followers.items()
            },
        }
    )
    return reply(stats, position)


@router.get(
    "/jobs",
    response_model=JobPage,
    summary="List all jobs",
    description="With `service` or `miner` a page may have few jobs, or none, and still a `next_cursor`: "
    "each page looks at a bounded number of jobs.",
    responses=refusals(Code.FORBIDDEN),
)
async def list_all_jobs(
    context: Context, _: ReaderOfAll, position: Position, query: Annotated[AllJobsQuery, Query()]
) -> Response:
    rows, cursor = await read_jobs(context, query, query.client, query.miner)
    return reply(JobPage(items=[row.view() for row in rows], next_cursor=cursor), position)


@router.get(
    "/miners",
    response_model=MinerPage,
    summary="List all miners, by id",
    description="With `service` a page may have few miners, or none, and still a `next_cursor`.",
    responses=refusals(Code.FORBIDDEN),
)
async def list_all_miners(
    context: Context, _: ReaderOfAll, position: Position, query: Annotated[AllMinersQuery, Query()]
) -> Response:
    [after] = read_cursor(query.cursor, MINER_CURSOR) or [""]
    service = await context.gateway.canonical(query.service) if query.service else None
    found, cursor = await _miners(context, after, query, service)
    return reply(MinerPage(items=[row.view() for row in found], next_cursor=cursor), position)


async def _miners(
    context: EdgeContext, after: str, query: AllMinersQuery, service: str | None
) -> tuple[list[MinerRow], str | None]:
    """A page of rows, and the cursor of the next page."""
    found: list[MinerRow] = []
    for _ in range(MAX_MINERS_LOOKED_AT // MINERS_READ):
        rows = await context.reads.miners(after, query.state or "", page_size=MINERS_READ)
        for row in rows:
            if service is None or service in row.services:
                if len(found) == query.limit:
                    return found, cursor_after(found[-1].miner_id)
                found.append(row)
        if len(rows) < MINERS_READ:
            return found, None
        after = rows[-1].miner_id
    return found, cursor_after(after)
