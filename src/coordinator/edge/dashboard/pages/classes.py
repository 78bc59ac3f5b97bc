"""The page Classes and profiles: what waits, for which miners, and what blocks."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.application.live.events import EVERYTHING
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.data import classes as data
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import broadcasts_of, live_answer
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router
from coordinator.edge.dashboard.sign_in import Visited, Visitor

router = page_router()


@router.get("/classes")
async def show_classes(request: Request, context: Context, visitor: Visited) -> Response:
    """The page."""
    parts = await broadcasts_of(request).newest(_source(context, visitor, base_of(request)))
    html = render(
        "classes.html",
        base=base_of(request),
        visitor=visitor,
        title="Classes and profiles",
        here="/classes",
        live=f"classes?after={parts.position}",
        position=parts.position,
        parts=parts.html,
    )
    return HTMLResponse(html)


@router.get("/ui/live/classes")
async def follow_classes(request: Request, context: Context, visitor: Visited, after: str = "") -> Response:
    """Its parts, as they change."""
    Viewer.of(visitor.principal).require_all("see classes")  # here: a stream could only be silent
    return live_answer(request, context, visitor, _source(context, visitor, base_of(request)), after)


def _source(context: EdgeContext, visitor: Visitor, base: str) -> PageSource:
    async def compute() -> Parts:
        position = context.live.events.position
        found = await data.load(context, Viewer.of(visitor.principal))
        values: dict[str, Any] = {
            "base": base,
            "found": found,
            "blocked": [line for line in found.classes if line.blocked],
        }
        html: dict[str, str] = {
            name: part(f"classes/{name}.html", **values) for name in ("sum", "queued", "profiles")
        }
        html["position"] = f"{position:,}"
        return Parts(position, html)

    return PageSource(("classes", visitor.audience), compute, (EVERYTHING,))
