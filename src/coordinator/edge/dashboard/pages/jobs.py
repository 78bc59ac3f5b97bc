"""The page Jobs: a query in the URL, the jobs that match it, and what may be done with all of them.

Rows stay where they are: a job that changes is changed in its row, and newer ones wait behind a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final
from urllib.parse import quote, urlencode
from uuid import UUID

from fastapi import Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from coordinator.application.live.events import EVERYTHING, Topic
from coordinator.application.search.places import read_anchor
from coordinator.crypto.keys import EncodingError, decode_base64url, encode_base64url
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.dashboard.broadcasts import PageSource, Parts
from coordinator.edge.dashboard.data import jobs as data
from coordinator.edge.dashboard.data.lines import lines
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.live import live_answer
from coordinator.edge.dashboard.rendering import part, render
from coordinator.edge.dashboard.routing import base_of, page_router
from coordinator.edge.dashboard.sign_in import Visited, Visitor
from coordinator.edge.http.problems import Problem
from coordinator.edge.state.tables.read_models import PROJECTOR

router = page_router()

QUICK: Final = (
    ("All", ""),
    ("Queued", "state:queued"),
    ("Running", "state:running"),
    ("Failed", "state:failed"),
    ("Tried again", "attempt:>1"),
    ("Waiting for long", "state:queued age:>10m"),
)
"""Queries that are one click away."""
MAX_ROWS: Final = 200
_ID_BYTES: Final = 16
QueryText = Annotated[str, Query(alias="q")]


@router.get("/jobs")
async def show_jobs(
    request: Request,
    context: Context,
    visitor: Visited,
    q: QueryText = "",
    cursor: str | None = None,
) -> Response:
    """The page."""
    viewer, query = Viewer.of(visitor.principal), data.JobQuery.parse(q.strip())
    position = context.watermarks.of(PROJECTOR)
    found = None if query.errors else await data.search(context, viewer, query, cursor or None)
    values = {
        "base": base_of(request),
        "visitor": visitor,
        "title": "Jobs",
        "here": "/jobs",
        "query": query,
        "quick": QUICK,
        "found": found,
        "cursor": cursor,
        "older": None if found is None or not found.next_cursor else _url(query.text, found.next_cursor),
        "some_jobs": bool(found and found.jobs) or await _has_jobs(context, viewer),
        "position": position,
    }
    if found is not None:
        values["live"] = "jobs?" + urlencode(
            {
                "q": query.text,
                "anchor": found.anchor if cursor is None else "",
                "rows": _packed([job.job_id for job in found.jobs]),
                "after": position,
            }
        )
    return HTMLResponse(render("jobs.html", **values))


@router.get("/ui/live/jobs")
async def follow_jobs(
    request: Request,
    context: Context,
    visitor: Visited,
    q: QueryText = "",
    anchor: str = "",
    rows: str = "",
    after: str = "",
) -> Response:
    """The rows that the page shows, as they change, and how many newer ones there are."""
    if anchor:
        read_anchor(anchor)  # refused here; the stream could only be silent
    source = _source(context, visitor, base_of(request), q.strip(), anchor, rows)
    return live_answer(request, context, visitor, source, after)


def _source(
    context: EdgeContext, visitor: Visitor, base: str, text: str, anchor: str, rows: str
) -> PageSource:
    viewer, query, shown = Viewer.of(visitor.principal), data.JobQuery.parse(text), _unpacked(rows)
    topic: Topic = EVERYTHING if visitor.sees_all else ("client", visitor.name)

    async def compute() -> Parts:
        position = context.watermarks.of(PROJECTOR)
        found = await lines(context, viewer, shown)
        html: dict[str, str] = {
            f"job-{job.job_id}": part("jobs/cells.html", base=base, visitor=visitor, job=job) for job in found
        }
        if anchor and not query.errors:
            try:
                newer = await data.newer(context, viewer, query, anchor)
            except Refusal:  # the last job of a class in the query has ended; the rows still change
                newer = data.Count(0)
            html["newer"] = part("jobs/newer.html", url=base + _url(text), newer=newer)
        html["position"] = f"{position:,}"
        return Parts(position, html)

    return PageSource(("jobs", visitor.audience, text, anchor, rows), compute, (topic,))


async def _has_jobs(context: EdgeContext, viewer: Viewer) -> bool:
    return bool((await data.search(context, viewer, data.JobQuery.parse(""), limit=1)).jobs)


def _url(text: str, cursor: str = "") -> str:
    """The page's path with this query."""
    asked = {**({"q": text} if text else {}), **({"cursor": cursor} if cursor else {})}
    return "/jobs" + (f"?{urlencode(asked, quote_via=quote)}" if asked else "")


def _packed(job_ids: Sequence[str]) -> str:
    return encode_base64url(b"".join(UUID(job_id).bytes for job_id in job_ids))


def _unpacked(rows: str) -> list[str]:
    try:
        octets = decode_base64url(rows) if rows else b""
    except EncodingError:
        octets = b"?"
    if len(octets) % _ID_BYTES or len(octets) > MAX_ROWS * _ID_BYTES:
        raise Problem(Code.INVALID_PAYLOAD, "invalid rows; load the page again")
    return [str(UUID(bytes=octets[i : i + _ID_BYTES])) for i in range(0, len(octets), _ID_BYTES)]
