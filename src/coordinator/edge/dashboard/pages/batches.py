"""Batches: cancel all jobs that match, or submit them again. First the plan, then the progress."""

from __future__ import annotations

from typing import Annotated, Final, get_args
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.application.live.events import EVERYTHING, Topic
from coordinator.domain.errors import Code
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.data import batches as data
from coordinator.edge.dashboard.data.jobs import JobQuery
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import broadcasts_of, live_answer
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import Visited, Visitor, Writing, form_of
from coordinator.edge.http.problems import Problem

router = page_router()

VERBS: Final = {"cancel": "Cancel", "retry": "Submit again"}
MAX_REASON: Final = 200


@router.get("/batches")
async def list_batches(request: Request, context: Context, visitor: Visited) -> Response:
    """The newest batches."""
    found = await data.recent(context, Viewer.of(visitor.principal))
    html = render(
        "batch/list.html",
        base=base_of(request),
        visitor=visitor,
        title="Batches",
        here="/jobs",
        batches=found,
        verbs=VERBS,
    )
    return HTMLResponse(html)


@router.get("/batches/new")
async def plan_batch(
    request: Request,
    context: Context,
    visitor: Visited,
    kind: str,
    q: Annotated[str, Query()] = "",
) -> Response:
    """What a batch would do. Nothing happens yet."""
    query = JobQuery.parse(q.strip())
    if query.errors:
        return redirect(request, "/jobs?" + urlencode({"q": q}))
    plan = await data.plan(context, Viewer.of(visitor.principal), _kind(kind), query.text)
    html = render(
        "batch/plan.html",
        base=base_of(request),
        visitor=visitor,
        title=f"{VERBS[kind]} all that match",
        here="/jobs",
        plan=plan,
        verb=VERBS[kind],
        asked=query.text,
    )
    return HTMLResponse(html)


@router.post("/batches")
async def start_batch(request: Request, context: Context, visitor: Writing) -> Response:
    """Start it."""
    form = await form_of(request, context)
    kind, query, reason = _kind(form.get("kind", "")), form.get("q", ""), form.get("reason", "")
    batch = await data.start(context, Viewer.of(visitor.principal), kind, query, reason[:MAX_REASON])
    broadcasts_of(request).spoil()
    return redirect(request, f"/batches/{batch.batch_id}")


@router.get("/batches/{batch_id}")
async def show_batch(request: Request, context: Context, visitor: Visited, batch_id: UUID) -> Response:
    """Its progress."""
    await data.load(context, Viewer.of(visitor.principal), batch_id)  # before others' computations are shared
    parts = await broadcasts_of(request).newest(_source(context, visitor, base_of(request), batch_id))
    html = render(
        "batch/batch.html",
        base=base_of(request),
        visitor=visitor,
        title="Batch",
        here="/jobs",
        live=f"batches/{batch_id}?after={parts.position}",
        position=parts.position,
        parts=parts.html,
    )
    return HTMLResponse(html)


@router.get("/ui/live/batches/{batch_id}")
async def follow_batch(
    request: Request, context: Context, visitor: Visited, batch_id: UUID, after: str = ""
) -> Response:
    """Its progress, as it changes."""
    await data.load(context, Viewer.of(visitor.principal), batch_id)
    source = _source(context, visitor, base_of(request), batch_id)
    return live_answer(request, context, visitor, source, after)


@router.post("/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, context: Context, visitor: Writing, batch_id: UUID) -> Response:
    """Stop it; what is done stays done."""
    await data.cancel(context, Viewer.of(visitor.principal), batch_id)
    broadcasts_of(request).spoil()
    return redirect(request, f"/batches/{batch_id}")


def _source(context: EdgeContext, visitor: Visitor, base: str, batch_id: UUID) -> PageSource:
    topic: Topic = EVERYTHING if visitor.sees_all else ("client", visitor.name)

    async def compute() -> Parts:
        batch = await data.load(context, Viewer.of(visitor.principal), batch_id)
        html = {"batch": part("batch/progress.html", base=base, visitor=visitor, batch=batch, verbs=VERBS)}
        return Parts(batch.position, html)

    key = ("batch", visitor.audience, str(visitor.read_only), str(batch_id))
    return PageSource(key, compute, (topic,))


def _kind(text: str) -> data.BatchKind:
    for kind in get_args(data.BatchKind):
        if text == kind:
            found: data.BatchKind = kind
            return found
    raise Problem(Code.INVALID_PAYLOAD, "kind: should be cancel or retry")
