"""The page Services: the registry, with the miners that run each service and the jobs that wait for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.http.reads.reading import cursor_after, read_cursor
from coordinator.edge.state.tables.rows import ServiceRow

_CURSOR = "[a-z0-9_]{1,63}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLine:
    service: str
    version: int
    retired: bool
    category: str
    name: str
    description: str
    list_price: str
    unit: str
    miners: int
    """Online, that run it."""
    queued: int | None
    """Jobs that wait for it; None for clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceList:
    services: tuple[ServiceLine, ...]
    categories: dict[str, int]
    next_cursor: str | None


async def load(
    context: EdgeContext, viewer: Viewer, category: str = "", cursor: str | None = None, limit: int = 100
) -> ServiceList:
    """A page of the registry by id; an empty category for all. Raises Refusal."""
    [after] = read_cursor(cursor, _CURSOR) or [""]
    rows = await context.reads.services(after, category, limit + 1, retired=True)
    miners: Counter[str] = Counter()
    for profile in await context.miners.get():
        for service in profile.capabilities.services:
            miners[service] += profile.online
    queued = await context.reads.queued_by_service() if viewer.sees_all else None
    shown = rows[:limit]
    return ServiceList(
        services=tuple(
            _line(row, miners[row.service], None if queued is None else queued.get(row.service, 0))
            for row in shown
        ),
        categories=await context.reads.services_by_category(),
        next_cursor=cursor_after(shown[-1].service) if len(rows) > len(shown) else None,
    )


async def entry(context: EdgeContext, viewer: Viewer, service: str) -> dict[str, Any]:
    """One entry, whole, with its schemas; by id or alias. Raises Refusal."""
    row = await context.reads.service(await context.gateway.canonical(service))
    if row is None:
        raise Refusal(Code.SERVICE_NOT_FOUND, f"no service {service[:63]}; the page Services lists all")
    return row.entry


def _line(row: ServiceRow, miners: int, queued: int | None) -> ServiceLine:
    entry = row.entry
    return ServiceLine(
        service=row.service,
        version=row.version,
        retired=bool(row.retired),
        category=row.category,
        name=entry["name"],
        description=entry["description"],
        list_price=entry["pricing"]["amount"],
        unit=entry["pricing"]["unit"],
        miners=miners,
        queued=queued,
    )
