"""Erasures of many jobs' payloads and results, for admins. A job's own is in `jobs`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.ports import Intent
from coordinator.application.search.places import JobKey
from coordinator.domain.content import MAX_JOBS, ContentErase
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import NAME, Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import read_object, request_body
from coordinator.edge.http.commands import accepted, trace_of
from coordinator.edge.http.credentials import Admin
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import Position, cursor_after, read_cursor, reply
from coordinator.edge.models.content import EraseBatch, EraseBatchAnswer
from coordinator.edge.state.tables.rows import ErasableRow
from coordinator.validation import describe_invalid
from coordinator.wire.answers import Accepted

router = APIRouter(prefix="/admin", tags=["admin"])

PIECE: Final = 5 * MAX_JOBS
"""Final jobs that one request looks at."""
_FIRST: Final = JobKey(-1, "")
_CURSOR: Final = (f"({NAME})?", r"[0-9]{1,16}", r"[0-9]{1,16}", r"[0-9a-f-]{36}")


@router.post(
    "/erase",
    response_model=EraseBatchAnswer,
    summary="Erase payloads and results of many jobs",
    description="Those of all final jobs of a client, of an age, or of both, in pieces: repeat the request "
    "with `cursor` until `next_cursor` is null. What is erased already is left out, so that a batch may be "
    "begun again. Events say whose content went and why; digests and receipts stay.",
    responses=refusals(Code.FORBIDDEN, Code.TOO_LARGE),
    openapi_extra=request_body(
        EraseBatch, example={"client": "alice", "reason": "asked to be forgotten", "dry_run": True}
    ),
)
async def erase_content(request: Request, context: Context, principal: Admin, position: Position) -> Response:
    batch = _batch(await read_object(request, context.limits))
    until, after = _place(batch)
    rows = await context.reads.erasable_jobs(after, until, batch.client or "", PIECE)
    due = [row for row in rows if row.left(batch.kinds)]
    answers = [] if batch.dry_run else await _erase(context, principal, request, batch, due)
    last = JobKey(rows[-1].requested_at, rows[-1].job_id) if len(rows) == PIECE else None
    answer = EraseBatchAnswer(
        jobs=len(due),
        payloads=sum("payload" in row.left(batch.kinds) for row in due),
        results=sum("result" in row.left(batch.kinds) for row in due),
        dry_run=batch.dry_run,
        erased=not batch.dry_run and all(answer.body["erased"] for answer in answers),
        position=max((answer.position for answer in answers), default=position),
        next_cursor=last
        and cursor_after(batch.client or "", str(until), str(last.requested_at), last.job_id),
    )
    return reply(answer, answer.position)


def _batch(body: dict[str, object]) -> EraseBatch:
    try:
        batch = EraseBatch.model_validate(body)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None
    if batch.client is None and batch.older_than_seconds is None:
        raise Refusal(
            Code.INVALID_PAYLOAD,
            "name a client, or an age (older_than_seconds; 0 for all final jobs), or both",
        )
    return batch


def _place(batch: EraseBatch) -> tuple[int, JobKey]:
    """The latest end of the jobs, which stays the same for all pieces, and the job to go on after."""
    found = read_cursor(batch.cursor, *_CURSOR)
    if found is None:
        return time.time_ns() // 1_000_000 - 1000 * (batch.older_than_seconds or 0), _FIRST
    client, until, at, job_id = found
    if client != (batch.client or ""):
        raise Refusal(Code.INVALID_PAYLOAD, "cursor: of another client's batch; send the same request again")
    return int(until), JobKey(int(at), job_id)


async def _erase(
    context: EdgeContext,
    principal: Principal,
    request: Request,
    batch: EraseBatch,
    due: Sequence[ErasableRow],
) -> list[Accepted]:
    """Raises Refusal. A piece that was refused half-way is made whole by its repeat."""
    ids = [UUID(row.job_id) for row in due]
    intents = [
        Intent(
            ContentErase(
                job_ids=tuple(ids[start : start + MAX_JOBS]), kinds=batch.kinds, reason=batch.reason
            ),
            principal,
            traceparent=trace_of(request),
        )
        for start in range(0, len(ids), MAX_JOBS)
    ]
    return [accepted(answer) for answer in await context.gateway.handle(intents)] if intents else []
