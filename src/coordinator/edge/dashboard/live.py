"""Live pages: server-sent events that replace the parts of a page that have changed.

`id:` is the position of the log that the parts are as fresh as, and a page that lost its connection goes on
after its `Last-Event-ID`. A page has one connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Final

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.ports import LogUnavailable
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.broadcasts import Broadcasts, PageSource, Parts
from coordinator.edge.dashboard.rendering import live_parts
from coordinator.edge.dashboard.sign_in import Visitor, sessions_of
from coordinator.edge.live.events_stream import HEARTBEAT_SECONDS, RETRY_MS, STREAM_HEADERS, event_stream

SIGNED_OUT: Final = "signed-out"
"""The event after which a page asks for a log-in."""


def broadcasts_of(request: Request) -> Broadcasts:
    """The broadcasts of this process."""
    known: Broadcasts | None = getattr(request.app.state, "broadcasts", None)
    context: EdgeContext = request.app.state.context
    if known is None or request.app.state.broadcasts_context is not context:
        known = request.app.state.broadcasts = Broadcasts(context.live)
        request.app.state.broadcasts_context = context
    return known


def live_answer(
    request: Request, context: EdgeContext, visitor: Visitor, source: PageSource, after: str = ""
) -> Response:
    """The stream of one open page. Raises TooManyOpen."""
    context.open_connections.check_stream(visitor.principal)
    text = request.headers.get("last-event-id", after)
    since = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    pieces = _messages(context, visitor, broadcasts_of(request), source, since)
    return event_stream(context, visitor.principal, pieces, STREAM_HEADERS)


@lru_cache(maxsize=64)
def _message(parts: Parts) -> bytes:
    """The message with these parts: made once for all readers that lack the same ones."""
    return format_sse_event(data_str=live_parts(parts.html), id=str(parts.position))


async def _messages(
    context: EdgeContext, visitor: Visitor, broadcasts: Broadcasts, source: PageSource, since: int
) -> AsyncGenerator[bytes]:
    yield format_sse_event(retry=RETRY_MS)
    asked_at = time.monotonic()
    async with broadcasts.reading(source, since) as (reader, news):
        with context.live.revocations.watch(visitor.grant, reader.woken.set) as revocation:
            while not revocation.over:
                if sessions_of(context).has_ended(visitor.session):  # by its time, or by a log-out here
                    break
                if time.monotonic() - asked_at >= HEARTBEAT_SECONDS:
                    asked_at = time.monotonic()
                    if await _was_ended(context, visitor):
                        break
                reader.woken.clear()
                if (parts := news()) is not None:
                    yield _message(parts)
                    continue
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await reader.woken.wait()
                except TimeoutError:
                    yield KEEPALIVE_COMMENT
            if not revocation.stopping:
                yield format_sse_event(data_str="", event=SIGNED_OUT)


async def _was_ended(context: EdgeContext, visitor: Visitor) -> bool:
    """Whether a log-out at any process has ended the session. A database out of reach ends no page."""
    try:
        return await context.ended_sessions.has(visitor.session.id)
    except LogUnavailable:
        return False
