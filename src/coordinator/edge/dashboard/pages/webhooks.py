"""The pages Webhooks and Webhook: receivers, and what became of each message to them."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.application.live.events import EVERYTHING, Topic
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.data import webhooks as data
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import broadcasts_of, live_answer
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router, redirect
from coordinator.edge.dashboard.sign_in import Visited, Visitor, Writing, form_of

router = page_router()

State = Annotated[str, Query(max_length=20)]
Cursor = Annotated[str, Query(max_length=300)]


@router.get("/webhooks")
async def show_webhooks(
    request: Request, context: Context, visitor: Visited, cursor: Cursor = ""
) -> Response:
    """The receivers, a page at a time."""
    found = await data.load(context, Viewer.of(visitor.principal), cursor or None)
    html = render(
        "webhooks.html",
        base=base_of(request),
        visitor=visitor,
        title="Webhooks",
        here="/webhooks",
        found=found,
        cursor=cursor,
        older="/webhooks?" + urlencode({"cursor": found.next_cursor}) if found.next_cursor else None,
    )
    return HTMLResponse(html)


@router.get("/webhooks/{webhook_id}")
async def show_webhook(
    request: Request,
    context: Context,
    visitor: Visited,
    webhook_id: str,
    state: State = "",
    cursor: Cursor = "",
) -> Response:
    """One receiver, with the log of its deliveries."""
    source = _source(context, visitor, base_of(request), webhook_id, state, cursor)
    parts = await broadcasts_of(request).newest(source)
    html = render(
        "webhook.html",
        base=base_of(request),
        visitor=visitor,
        title="Webhook",
        here="/webhooks",
        live=f"webhooks/{quote(webhook_id, safe='')}?"
        + urlencode({"state": state, "cursor": cursor, "after": parts.position}),
        position=parts.position,
        parts=parts.html,
    )
    return HTMLResponse(html)


@router.get("/ui/live/webhooks/{webhook_id}")
async def follow_webhook(
    request: Request,
    context: Context,
    visitor: Visited,
    webhook_id: str,
    state: State = "",
    cursor: Cursor = "",
    after: str = "",
) -> Response:
    """The same, as it changes."""
    source = _source(context, visitor, base_of(request), webhook_id, state, cursor)
    await broadcasts_of(request).newest(source)  # refuses before the stream begins
    return live_answer(request, context, visitor, source, after)


@router.post("/webhooks/{webhook_id}/test")
async def test_webhook(request: Request, context: Context, visitor: Writing, webhook_id: str) -> Response:
    """Send it a test message."""
    await data.test(context, Viewer.of(visitor.principal), webhook_id)
    return _changed(request, webhook_id)


@router.post("/webhooks/{webhook_id}/replay")
async def replay_delivery(request: Request, context: Context, visitor: Writing, webhook_id: str) -> Response:
    """Send one message again."""
    form = await form_of(request, context)
    await data.replay(context, Viewer.of(visitor.principal), webhook_id, form.get("delivery", ""))
    return _changed(request, webhook_id)


def _changed(request: Request, webhook_id: str) -> Response:
    broadcasts_of(request).spoil()
    return redirect(request, f"/webhooks/{quote(webhook_id, safe='')}")


def _source(
    context: EdgeContext, visitor: Visitor, base: str, webhook_id: str, state: str, cursor: str
) -> PageSource:
    topic: Topic = EVERYTHING if visitor.sees_all else ("client", visitor.name)

    async def compute() -> Parts:
        position = context.live.events.position
        log = await data.log_of(context, Viewer.of(visitor.principal), webhook_id, state, cursor or None)
        path = f"/webhooks/{quote(webhook_id, safe='')}"
        asked = {"state": state} if state else {}
        values: dict[str, Any] = {
            "base": base,
            "visitor": visitor,
            "log": log,
            "webhook": log.webhook,
            "chosen": state,
            "path": path,
            "older": f"{path}?" + urlencode({**asked, "cursor": log.next_cursor})
            if log.next_cursor
            else None,
            "first": path + (f"?{urlencode(asked)}" if asked else "") if cursor else None,
        }
        html: dict[str, str] = {
            name: part(f"webhooks/{name}.html", **values) for name in ("head", "deliveries")
        }
        html["position"] = f"{position:,}"
        return Parts(position, html)

    key = ("webhook", visitor.audience, visitor.name, str(visitor.read_only), webhook_id, state, cursor)
    return PageSource(key, compute, (topic,))
