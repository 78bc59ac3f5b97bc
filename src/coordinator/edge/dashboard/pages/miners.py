"""The pages Miners and Miner: the fleet, one miner, why it has no work, and what an operator does with it."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

from fastapi import Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.application.live.events import EVERYTHING
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.data import miners as data
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import broadcasts_of, live_answer
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import Visited, Visitor, Writing, form_of

router = page_router()

_PARTS: Final = ("head", "gpus", "standing", "jobs", "actions", "facts")
State = Annotated[str, Query(max_length=20)]
Cursor = Annotated[str, Query(max_length=200)]


@router.get("/miners")
async def show_miners(
    request: Request, context: Context, visitor: Visited, state: State = "", cursor: Cursor = ""
) -> Response:
    """The fleet, a page at a time."""
    parts = await broadcasts_of(request).newest(_list(context, visitor, base_of(request), state, cursor))
    html = render(
        "miners.html",
        base=base_of(request),
        visitor=visitor,
        title="Miners",
        here="/miners",
        live="miners?" + urlencode({"state": state, "cursor": cursor, "after": parts.position}),
        position=parts.position,
        parts=parts.html,
    )
    return HTMLResponse(html)


@router.get("/ui/live/miners")
async def follow_miners(
    request: Request,
    context: Context,
    visitor: Visited,
    state: State = "",
    cursor: Cursor = "",
    after: str = "",
) -> Response:
    """The same rows, as they change."""
    Viewer.of(visitor.principal).require_all("see miners")  # here: a stream could only be silent
    return live_answer(
        request, context, visitor, _list(context, visitor, base_of(request), state, cursor), after
    )


@router.get("/miners/{miner_id}")
async def show_miner(request: Request, context: Context, visitor: Visited, miner_id: str) -> Response:
    """One miner."""
    parts = await broadcasts_of(request).newest(_one(context, visitor, base_of(request), miner_id))
    html = render(
        "miner.html",
        base=base_of(request),
        visitor=visitor,
        title=f"Miner {miner_id}",
        here="/miners",
        live=f"miners/{quote(miner_id, safe='')}?after={parts.position}",
        position=parts.position,
        parts=parts.html,
    )
    return HTMLResponse(html)


@router.get("/ui/live/miners/{miner_id}")
async def follow_miner(
    request: Request, context: Context, visitor: Visited, miner_id: str, after: str = ""
) -> Response:
    """Its parts, as they change."""
    Viewer.of(visitor.principal).require_all("see miners")
    return live_answer(request, context, visitor, _one(context, visitor, base_of(request), miner_id), after)


@router.post("/miners/{miner_id}/drain")
async def drain_miner(request: Request, context: Context, visitor: Writing, miner_id: str) -> Response:
    """Give it no more jobs; it finishes those that it has."""
    await data.drain(context, Viewer.of(visitor.principal), miner_id)
    return _changed(request, miner_id)


@router.post("/miners/{miner_id}/quarantine")
async def quarantine_miner(request: Request, context: Context, visitor: Writing, miner_id: str) -> Response:
    """Give the miners of its key no more jobs, of one service or of all."""
    form = await form_of(request, context)
    viewer = Viewer.of(visitor.principal)
    found = await data.story(context, viewer, miner_id)
    service, reason = form.get("service") or None, form.get("reason", "")
    await data.quarantine(context, viewer, found.miner.principal, service, reason)
    return _changed(request, miner_id)


@router.post("/miners/{miner_id}/release")
async def release_miner(request: Request, context: Context, visitor: Writing, miner_id: str) -> Response:
    """End such a quarantine."""
    form = await form_of(request, context)
    viewer = Viewer.of(visitor.principal)
    found = await data.story(context, viewer, miner_id)
    service, reason = form.get("service") or None, form.get("reason", "")
    await data.release(context, viewer, found.miner.principal, service, reason)
    return _changed(request, miner_id)


def _changed(request: Request, miner_id: str) -> Response:
    broadcasts_of(request).spoil()
    return redirect(request, f"/miners/{quote(miner_id, safe='')}")


def _list(context: EdgeContext, visitor: Visitor, base: str, state: str, cursor: str) -> PageSource:
    async def compute() -> Parts:
        position = context.live.events.position
        found = await data.load(context, Viewer.of(visitor.principal), state, cursor or None)
        values: dict[str, Any] = {
            "base": base,
            "found": found,
            "chosen": state,
            "older": _url(state, found.next_cursor) if found.next_cursor else None,
            "first": _url(state) if cursor else None,
        }
        html: dict[str, str] = {
            "counts": part("miners/counts.html", **values),
            "miners": part("miners/list.html", **values),
            "position": f"{position:,}",
        }
        return Parts(position, html)

    return PageSource(("miners", visitor.audience, state, cursor), compute, (EVERYTHING,))


def _one(context: EdgeContext, visitor: Visitor, base: str, miner_id: str) -> PageSource:
    async def compute() -> Parts:
        position = context.live.events.position
        story = await data.story(context, Viewer.of(visitor.principal), miner_id)
        values: dict[str, Any] = {
            "base": base,
            "visitor": visitor,
            "story": story,
            "miner": story.miner,
            "path": f"{base}/miners/{quote(miner_id, safe='')}",
        }
        html: dict[str, str] = {name: part(f"miners/{name}.html", **values) for name in _PARTS}
        html["position"] = f"{position:,}"
        return Parts(position, html)

    return PageSource(("miner", visitor.audience, str(visitor.read_only), miner_id), compute, (EVERYTHING,))


def _url(state: str, cursor: str | None = None) -> str:
    asked = {**({"state": state} if state else {}), **({"cursor": cursor} if cursor else {})}
    return "/miners" + (f"?{urlencode(asked)}" if asked else "")
