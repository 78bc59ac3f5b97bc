"""A language model's text while it is generated: submits the job, and answers with its events and result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.reads.job_wait import final_job
from coordinator.edge.http.reads.stored_payloads import closed, result_pieces
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, IdempotencyKey, accept, headers_of
from coordinator.edge.live.events_stream import STREAM_HEADERS, EventStream, event_stream, follow_job
from coordinator.edge.models.jobs import JobError
from coordinator.edge.services.typed_route import read_job, request_body
from coordinator.services.llm_inference import SERVICE, StreamedInference

router = APIRouter()


@router.post(
    "/llm/stream",
    response_class=EventStream,
    summary="Stream the text of a language model",
    description="Submits the job, and answers with server-sent events: those of `GET /v1/jobs/{id}/events`, "
    "with the text in `tokens`, and finally `result`, with the job's `result` or `error`. A client that "
    "disconnects does not stop the job; a repeat with the same `Idempotency-Key` streams it again.",
    responses={
        200: {
            "description": "`event:` is the message's type, `data:` the message.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **SUBMIT_PROBLEMS,
    },
    openapi_extra=request_body(
        StreamedInference, {"model": "mistral-7b", "prompt": "Three uses for a retired mining rig:"}
    ),
)
async def stream_inference(
    request: Request, context: Context, principal: Client, idempotency_key: IdempotencyKey = None
) -> Response:
    context.open_connections.check_stream(principal)
    fields = await read_job(request, context, principal, StreamedInference, SERVICE)
    submitted = await accept(request, context, principal, fields, idempotency_key)
    pieces = _stream(request, context, principal, submitted.job_id)
    return event_stream(context, principal, pieces, {**STREAM_HEADERS, **headers_of(submitted)})


async def _stream(
    request: Request, context: EdgeContext, principal: Principal, job_id: UUID
) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(follow_job(request, context, job_id)) as events:
        async for event in events:
            yield event
    # The end is in the log; the read models have it a moment later.
    row = await final_job(context, principal, job_id, context.limits.at_least_seconds)
    if not row.is_final:
        return  # the stream was ended before the job: the server stops, or the key is revoked
    message: dict[str, Any] = {"type": "result", "job_id": str(job_id), "state": row.state}
    found = await result_pieces(context, row) if row.is_completed else None
    if found is None:
        error = row.error or JobError(code=row.state, message="")  # completed, and the result was erased
        message["error"] = error.model_dump()
        yield b"event: result\ndata: " + json.dumps(message).encode() + b"\n\n"
        return
    # The stored result is one line, as an event's data must be.
    yield b"event: result\ndata: " + json.dumps(message)[:-1].encode() + b', "result": '
    try:
        async for piece in found:
            yield piece
    finally:
        await closed(found)
    yield b"}\n\n"
