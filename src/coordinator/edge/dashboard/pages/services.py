"""The pages Services and Service: the registry, who runs each service, and what waits for it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.edge.context import Context
from coordinator.edge.dashboard.data import services as data
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.rendering import render
from coordinator.edge.dashboard.routing import base_of, page_router
from coordinator.edge.dashboard.sign_in import Visited

router = page_router()


@router.get("/services")
async def show_services(
    request: Request,
    context: Context,
    visitor: Visited,
    category: Annotated[str, Query(max_length=100)] = "",
    cursor: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """The registry, a page at a time."""
    found = await data.load(context, Viewer.of(visitor.principal), category, cursor or None)
    asked = {"category": category} if category else {}
    html = render(
        "services.html",
        base=base_of(request),
        visitor=visitor,
        title="Services",
        here="/services",
        found=found,
        chosen=category,
        cursor=cursor,
        older="/services?" + urlencode({**asked, "cursor": found.next_cursor}) if found.next_cursor else None,
    )
    return HTMLResponse(html)


@router.get("/services/{service}")
async def show_service(request: Request, context: Context, visitor: Visited, service: str) -> Response:
    """One entry of the registry, with its schemas."""
    entry = await data.entry(context, Viewer.of(visitor.principal), service)
    html = render(
        "service.html",
        base=base_of(request),
        visitor=visitor,
        title=entry["name"],
        here="/services",
        entry=entry,
    )
    return HTMLResponse(html)
