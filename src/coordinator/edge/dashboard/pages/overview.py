"""The page Overview: what runs, what waits, and what needs somebody."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.application.live.events import EVERYTHING, Topic
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.data import overview as data
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import broadcasts_of, live_answer
from coordinator.edge.dashboard.pages.log_in import follow_link
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import PAID_ROLE, Visited, Visitor, anybody_of

router = page_router()

_PARTS: Final = ("summary", "attention", "figures", "fleet")
_MINUTE: Final = 60_000
CHART_MILLIS: Final = 5_000
"""Between changes of the charts, whose values are of whole minutes."""
_SHOWN_MINUTES: Final = 60


@router.get("/")
async def show_overview(request: Request, context: Context, token: str = "") -> Response:
    """The page; with `token`, the link that `coordinator dev` prints."""
    if token:
        return await follow_link(request, context, token)
    visitor = await anybody_of(request, context)
    if visitor.role == PAID_ROLE:
        return redirect(request, "/earnings")
    parts = await broadcasts_of(request).newest(_source(context, visitor, base_of(request)))
    html = render(
        "overview.html",
        base=base_of(request),
        visitor=visitor,
        title="Overview",
        here="/",
        live=f"overview?after={parts.position}",
        position=parts.position,
        parts=parts.html,
    )
    return HTMLResponse(html)


@router.get("/ui/live/overview")
async def follow_overview(request: Request, context: Context, visitor: Visited, after: str = "") -> Response:
    """Its parts, as they change."""
    return live_answer(request, context, visitor, _source(context, visitor, base_of(request)), after)


def _source(context: EdgeContext, visitor: Visitor, base: str) -> PageSource:
    topic: Topic = EVERYTHING if visitor.sees_all else ("client", visitor.name)
    charts: dict[str, str] = {}
    drawn_at = 0

    async def compute() -> Parts:
        nonlocal drawn_at
        found = await data.load(context, Viewer.of(visitor.principal))
        values: dict[str, Any] = {"base": base, "overview": found, "counts": _counts(found)}
        html: dict[str, str] = {name: part(f"overview/{name}.html", **values) for name in _PARTS}
        if found.fleet is not None and found.at - drawn_at >= CHART_MILLIS:
            drawn_at = found.at
            delays, work = _series(found)
            charts["delay-rows"] = part("rows.html", rows=delays)
            charts["work-rows"] = part("rows.html", rows=work)
        html |= charts
        html["position"] = f"{found.position:,}"
        return Parts(found.position, html)

    return PageSource(("overview", visitor.audience), compute, (topic,))


def _counts(found: data.Overview) -> dict[str, Any]:
    return {line.state: line.count for line in found.states}


def _series(found: data.Overview) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The rows of both charts: every minute of the last hour that was counted."""
    assert found.fleet is not None
    known = {minute.begin: minute for minute in found.fleet.minutes}
    last = found.at // _MINUTE * _MINUTE
    delays, work = [], []
    for begin in range(last - (_SHOWN_MINUTES - 1) * _MINUTE, last + 1, _MINUTE):
        minute = known.get(begin)
        counted = begin + _MINUTE > found.fleet.since
        delay = None if minute is None else minute.delay
        delays.append((begin, None, None) if delay is None else (begin, delay.p50, delay.p99))
        if minute is not None:
            ended = minute.failed + minute.canceled + minute.expired
            work.append((begin, minute.completed, minute.submitted, ended))
        else:
            work.append((begin, *((0, 0, 0) if counted else (None, None, None))))
    return delays, work
