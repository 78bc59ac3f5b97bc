"""Server-sent events: the same messages as on `/ws/client`, for browsers and for `curl`.

`id:` is the position in the log, so a browser that reconnects sends `Last-Event-ID` and goes on where it was.
Progress and tokens have no id: they are not in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Header, Query
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from coordinator.application.keys.keyring import Grant
from coordinator.application.ports import LogError
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import FINAL_STATES, ends_job
from coordinator.domain.messages import READS_ALL, Principal, Role
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.credentials import Reader, grant_for, grants_of
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import POSITION_HEADER, may_read
from coordinator.edge.http.reads.stored_payloads import Pieces
from coordinator.edge.live.messages import JobMessage, LiveMessage, StateChanged, Subscribed
from coordinator.edge.live.subscriptions import Subscriptions, check_position, watching

router = APIRouter(tags=["live"])

HEARTBEAT_SECONDS: Final = 15.0
"""Between comments on an idle stream: proxies cut connections that are silent for longer."""
SEND_SECONDS: Final = 30.0
"""How long a message may wait for a reader that does not read."""
RETRY_MS: Final = 2000
"""How long a browser waits before it reconnects."""
_POSITION: Final = re.compile(r"[0-9]{1,18}")
STREAM_HEADERS: Final = {
    "Cache-Control": "no-cache, no-store",
    "X-Accel-Buffering": "no",  # nginx would keep all of it until the end
}
After = Annotated[str | None, Query(alias="from", description="Begin after this position of the log.")]
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="Overrides `from`; browsers send it when they reconnect."),
]
WithProgress = Annotated[bool, Query(description="Whether to send progress and tokens, too.")]


def _stream_of(description: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "description": description,
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    }


class EventStream(Pieces):
    """A stream that gives up a reader that does not read, and is counted as long as it is open.

    Not FastAPI's `EventSourceResponse`: its endpoint is a generator, which has begun to answer before it can
    refuse an unknown job.
    """

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Any) -> None:
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                raise OSError("the reader does not read") from None

        await super().stream_response(send_in_time)


def event_stream(
    context: EdgeContext, principal: Principal, pieces: AsyncIterator[bytes], headers: Mapping[str, str]
) -> EventStream:
    """A stream to this principal, counted among its open streams."""
    return EventStream(pieces, headers=headers, counted=context.open_connections.stream(principal))


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventStream,
    summary="Follow a job",
    description="Server-sent events until the job is final, from its beginning or after `from`. Then 204, so "
    "that a browser does not reconnect.",
    responses={
        **_stream_of("`event:` is the message's type, `data:` the message, `id:` its position."),
        204: {"description": "The job is final, and has no events after this position."},
        **refusals(Code.FORBIDDEN, Code.JOB_NOT_FOUND),
    },
)
async def job_events(
    request: Request,
    context: Context,
    principal: Reader,
    job_id: UUID,
    after: After = None,
    last_event_id: LastEventId = None,
    progress: WithProgress = True,
) -> Response:
    context.open_connections.check_stream(principal)
    since = _position(last_event_id, after) or 0
    history = (await context.live.events.histories([job_id])).get(job_id)
    if history is None or not may_read(principal, getattr(history[0].event, "client", "")):
        raise Refusal(Code.JOB_NOT_FOUND, "no such job")
    last = history[-1]
    if ends_job(last.event) and last.position <= since:
        return Response(status_code=204)
    await check_position(context.live, since)

    def begin(subscriptions: Subscriptions) -> AsyncGenerator[LiveMessage]:
        return subscriptions.follow_jobs([job_id], since, progress=progress)

    pieces = _sse(context, _grant(request), begin, until_final=True)
    return event_stream(context, principal, pieces, _headers(context))


@router.get(
    "/events",
    response_class=EventStream,
    summary="Follow all jobs",
    description="Server-sent events of all own jobs (for viewers, operators and admins: of all), from now "
    "on or after `from`. The stream does not end.",
    responses={
        **_stream_of("`event:` is the message's type, `data:` the message, `id:` its position."),
        **refusals(Code.FORBIDDEN),
    },
)
async def all_events(
    request: Request,
    context: Context,
    principal: Reader,
    after: After = None,
    last_event_id: LastEventId = None,
    progress: WithProgress = True,
) -> Response:
    context.open_connections.check_stream(principal)
    since = _position(last_event_id, after)
    if since is not None:
        await check_position(context.live, since)

    async def begin(subscriptions: Subscriptions) -> AsyncGenerator[LiveMessage]:
        await subscriptions.follow_all(since, progress=progress)
        while subscriptions.catching_up:
            for message in await subscriptions.news():
                yield message
        yield Subscribed(jobs="all", position=subscriptions.position)

    pieces = _sse(context, _grant(request), begin, until_final=False)
    return event_stream(context, principal, pieces, _headers(context))


def follow_job(request: Request, context: EdgeContext, job_id: UUID) -> AsyncGenerator[bytes]:
    """The stream of one job from its beginning to its end, for endpoints that have submitted it."""

    def begin(subscriptions: Subscriptions) -> AsyncGenerator[LiveMessage]:
        return subscriptions.follow_jobs([job_id])

    return _sse(context, _grant(request), begin, until_final=True)


def _headers(context: EdgeContext) -> dict[str, str]:
    return {**STREAM_HEADERS, POSITION_HEADER: str(context.live.events.position)}


def _grant(request: Request) -> Grant:
    return grant_for(grants_of(request), Role.CLIENT, *READS_ALL)


async def _sse(
    context: EdgeContext,
    grant: Grant,
    begin: Callable[[Subscriptions], AsyncGenerator[LiveMessage]],
    *,
    until_final: bool,
) -> AsyncGenerator[bytes]:
    """The stream's bytes. It ends if the log is out of reach or the key is revoked; readers reconnect."""
    yield format_sse_event(retry=RETRY_MS)
    async with watching(context.live, grant.principal) as subscriptions:
        with (
            contextlib.suppress(LogError),
            context.live.revocations.watch(grant, subscriptions.woken.set) as revocation,
        ):
            async with contextlib.aclosing(begin(subscriptions)) as first:
                over = False
                async for message in first:
                    yield _event(message)
                    over = over or _is_final(message)
            while not ((over and until_final) or revocation.over):
                if not await _set_in_time(subscriptions.woken):
                    yield KEEPALIVE_COMMENT
                    continue
                subscriptions.woken.clear()
                for message in await subscriptions.news():
                    yield _event(message)
                    over = over or _is_final(message)


async def _set_in_time(event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _event(message: LiveMessage) -> bytes:
    # Events of the log have an id, and `Subscribed` has one for readers without events.
    position = message.position if isinstance(message, JobMessage | Subscribed) else None
    return format_sse_event(
        data_str=message.to_json(), event=message.type, id=None if position is None else str(position)
    )


def _is_final(message: LiveMessage) -> bool:
    return isinstance(message, StateChanged) and message.state in FINAL_STATES


def _position(*texts: str | None) -> int | None:
    for text in texts:
        if text is not None and text != "":
            if not _POSITION.fullmatch(text):
                raise Refusal(Code.INVALID_PAYLOAD, "from: should be a position, a number without a sign")
            return int(text)
    return None
