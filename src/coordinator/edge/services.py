"""The registry of services: what jobs may ask for."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import ServiceId
from coordinator.edge.auth import Anyone
from coordinator.edge.context import Context
from coordinator.edge.models import ServicePage, ServiceSummary, ServiceView
from coordinator.edge.problems import describe_problems
from coordinator.edge.reading import PageQuery, Position, cursor_after, read_cursor, reply

router = APIRouter(prefix="/registry/services", tags=["registry"])


class ServicesQuery(PageQuery):
    """Which services."""

    category: (
        Literal[
            "ai_ml",
            "media_processing",
            "scientific_computing",
            "data_analytics",
            "gaming_entertainment",
            "development_tools",
        ]
        | None
    ) = Field(None, description="Only those of this category.")
    include_retired: bool = Field(False, description="Also those that take no new jobs.")


@router.get(
    "",
    response_model=ServicePage,
    summary="List services",
    responses=describe_problems(Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.UNAVAILABLE),
)
async def list_services(
    context: Context, _: Anyone, position: Position, query: Annotated[ServicesQuery, Query()]
) -> Response:
    [after] = read_cursor(query.cursor, r"[a-z0-9_]{1,63}") or [""]
    rows = await context.read(
        "read_services",
        after=after,
        retired=int(query.include_retired),
        category=query.category or "",
        page_size=query.limit + 1,
    )
    shown = rows[: query.limit]
    cursor = cursor_after(shown[-1]["service"]) if len(rows) > len(shown) else None
    items = [ServiceSummary.model_validate(_entry(row)) for row in shown]
    return reply(ServicePage(items=items, next_cursor=cursor), position)


@router.get(
    "/{service}",
    response_model=ServiceView,
    summary="Show a service",
    description="With the JSON Schemas of what it takes and gives. A retired one is shown too.",
    responses=describe_problems(
        Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.SERVICE_NOT_FOUND, Code.UNAVAILABLE
    ),
)
async def show_service(
    context: Context, _: Anyone, position: Position, service: Annotated[ServiceId, Path()]
) -> Response:
    rows = await context.read("read_service", service=service)
    if not rows:
        raise Refusal(Code.SERVICE_NOT_FOUND, "no such service; the list shows what there is")
    return reply(ServiceView.model_validate(_entry(rows[0])), position)


def _entry(row: dict[str, Any]) -> dict[str, Any]:
    return {**json.loads(row["spec_json"]), "version": row["version"], "retired": bool(row["retired"])}
