"""The page of one job: one sentence first, then why, timeline, attempts, result and events."""

from __future__ import annotations

import secrets
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.application.live.progress import Progress
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.copies import copies
from coordinator.edge.dashboard.data import job as data
from coordinator.edge.dashboard.data.money import payment
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import broadcasts_of, live_answer
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import Visited, Visitor, Writing, form_of
from coordinator.edge.dashboard.timeline import timeline
from coordinator.edge.dashboard.words import pretty

router = page_router()

_PARTS: Final = ("title", "actions", "why", "progress", "lanes", "attempts", "result", "events", "facts")
SHOWN_TEXT: Final = 8_000
"""Characters of a job's running text that its page shows: the newest."""
MAX_REASON: Final = 200


@router.get("/jobs/{job_id}")
async def show_job(request: Request, context: Context, visitor: Visited, job_id: UUID) -> Response:
    """The page."""
    parts = await broadcasts_of(request).newest(_source(request, context, visitor, job_id))
    html = render(
        "job.html",
        base=base_of(request),
        visitor=visitor,
        title=f"Job {str(job_id)[:13]}",
        here="/jobs",
        live=f"jobs/{job_id}?after={parts.position}",
        position=parts.position,
        parts=parts.html,
        form=secrets.token_hex(8),
    )
    return HTMLResponse(html)


@router.get("/ui/live/jobs/{job_id}")
async def follow_job(
    request: Request, context: Context, visitor: Visited, job_id: UUID, after: str = ""
) -> Response:
    """Its parts, as they change: events, progress and text."""
    source = _source(request, context, visitor, job_id)
    await broadcasts_of(request).newest(source)  # refuses another client's job before the stream begins
    return live_answer(request, context, visitor, source, after)


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(request: Request, context: Context, visitor: Writing, job_id: UUID) -> Response:
    """Cancel it."""
    reason = (await form_of(request, context)).get("reason", "")[:MAX_REASON]
    await data.cancel(context, Viewer.of(visitor.principal), job_id, reason)
    broadcasts_of(request).spoil()
    return redirect(request, f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/again")
async def submit_again(request: Request, context: Context, visitor: Writing, job_id: UUID) -> Response:
    """Submit it again: a new job."""
    form = (await form_of(request, context)).get("form", "")[:64]
    new = await data.submit_again(context, Viewer.of(visitor.principal), job_id, form)
    broadcasts_of(request).spoil()
    return redirect(request, f"/jobs/{new}")


@router.post("/jobs/{job_id}/dispute")
async def dispute_payment(request: Request, context: Context, visitor: Writing, job_id: UUID) -> Response:
    """Freeze what its miner got."""
    reason = (await form_of(request, context)).get("reason", "")
    await payment.dispute(context, Viewer.of(visitor.principal), job_id, reason)
    context.shared.forget(("money-totals",))
    broadcasts_of(request).spoil()
    return redirect(request, f"/jobs/{job_id}")


def _source(request: Request, context: EdgeContext, visitor: Visitor, job_id: UUID) -> PageSource:
    base, url = base_of(request), str(request.base_url).rstrip("/") + base_of(request)

    async def compute() -> Parts:
        story = await data.story(context, Viewer.of(visitor.principal), job_id)
        told = context.live.progress.whole(job_id) if story.job.state == "RUNNING" else None
        values: dict[str, Any] = {
            "base": base,
            "visitor": visitor,
            "story": story,
            "job": story.job,
            "timeline": timeline(story.lanes, story.now),
            "progress": None if told is None else told[1],
            "text": _tail(None if told is None else told[1]),
            "document": "" if story.result.document is None else pretty(story.result.document),
            "copies": None if story.request is None else copies(story.request, url),
        }
        html: dict[str, str] = {name: part(f"job/{name}.html", **values) for name in _PARTS}
        position = max(story.position, context.live.events.position)
        html["position"] = f"{position:,}"
        return Parts(position, html)

    key = ("job", visitor.audience, str(visitor.read_only), str(job_id), url)
    return PageSource(key, compute, (job_id,), progress_of=job_id)


def _tail(progress: Progress | None) -> str:
    return "" if progress is None or progress.text is None else progress.text[-SHOWN_TEXT:]
