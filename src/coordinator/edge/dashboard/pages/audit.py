"""The page Audit: the invariants, as far as this coordinator can say, and the way to do without its word."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.application.live.events import EVERYTHING
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.data import audit as data
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import broadcasts_of, live_answer
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router
from coordinator.edge.dashboard.sign_in import Visited, Visitor

router = page_router()


@router.get("/audit")
async def show_audit(request: Request, context: Context, visitor: Visited) -> Response:
    """The page."""
    parts = await broadcasts_of(request).newest(_source(context, visitor, base_of(request)))
    html = render(
        "audit.html",
        base=base_of(request),
        visitor=visitor,
        title="Audit",
        url=str(request.base_url).rstrip("/") + base_of(request),
        here="/audit",
        live=f"audit?after={parts.position}",
        position=parts.position,
        parts=parts.html,
    )
    return HTMLResponse(html)


@router.get("/ui/live/audit")
async def follow_audit(request: Request, context: Context, visitor: Visited, after: str = "") -> Response:
    """Its parts, as they change."""
    Viewer.of(visitor.principal).require_all("see the audit")  # here: a stream could only be silent
    return live_answer(request, context, visitor, _source(context, visitor, base_of(request)), after)


def _source(context: EdgeContext, visitor: Visitor, base: str) -> PageSource:
    async def compute() -> Parts:
        found = await data.load(context, Viewer.of(visitor.principal))
        broken = [line for line in found.invariants if line.verdict == "broken"]
        values: dict[str, Any] = {"base": base, "audit": found, "broken": broken}
        html: dict[str, str] = {
            name: part(f"audit/{name}.html", **values) for name in ("verdict", "figures", "invariants")
        }
        html["position"] = f"{found.head:,}"
        return Parts(found.head, html)

    return PageSource(("audit", visitor.audience), compute, (EVERYTHING,))
