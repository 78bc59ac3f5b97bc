"""Text from text: language models."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, ClassVar, Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.matching import Constraints
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.job_wait import final_job
from coordinator.edge.http.stored_payloads import result_pieces
from coordinator.edge.http.submitting import (
    SUBMIT_PROBLEMS,
    SUBMIT_TEXT,
    IdempotencyKey,
    Prefer,
    accept,
    headers_of,
)
from coordinator.edge.live.events_stream import STREAM_HEADERS, EventStream, follow_job
from coordinator.edge.models.base import View
from coordinator.edge.models.jobs import JobError, JobSubmitAnswer
from coordinator.edge.services.asking import Ask, ask_body, job_fields, read_ask, submit_ask

router = APIRouter(prefix="/llm")

CUDA: Final = "11.8"
VRAM_GB: Final[dict[str, int]] = {
    "llama-7b": 8,
    "llama-13b": 16,
    "llama-70b": 64,
    "mistral-7b": 8,
    "mixtral-8x7b": 48,
    "codellama-7b": 8,
    "codellama-13b": 16,
    "codellama-34b": 32,
}
"""Of the models whose needs are known; for others it is the miner's affair which it offers."""


class StreamAsk(Ask):
    """How a model goes on with a text, told while it does."""

    SERVICE: ClassVar = "llm_inference"

    model: Annotated[
        str,
        Field(
            max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9][A-Za-z0-9._:@+-]*){0,2}$"
        ),
    ] = Field(description="One that a miner offers.", examples=list(VRAM_GB))
    prompt: Annotated[str, Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0, le=100)] = 40
    repetition_penalty: Annotated[float, Field(ge=0, le=2)] = 1.1
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=16)] | None
    ) = None

    def needs(self) -> Constraints:
        known = VRAM_GB.get(self.model)
        return Constraints(models=(self.model,), min_vram_gb=known, cuda=CUDA if known else None)


class InferenceAsk(StreamAsk):
    """How a model goes on with a text."""

    stream: bool = Field(False, description="Also send tokens as progress while they are made.")


class Generated(View):
    """`text` is what was generated, without the prompt."""

    model: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class InferenceJob(JobSubmitAnswer):
    """A job of the service llm_inference."""

    result: Generated | None = None  # type: ignore[assignment]


@router.post(
    "/inference",
    status_code=201,
    response_model=InferenceJob,
    summary="Let a language model go on with a text",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=ask_body(
        InferenceAsk, one={"model": "mistral-7b", "prompt": "Three uses for a retired mining rig:"}
    ),
)
async def infer(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    ask = await read_ask(request, context, principal, InferenceAsk)
    return await submit_ask(request, context, principal, ask, idempotency_key, prefer)


@router.post(
    "/stream",
    response_class=EventStream,
    summary="Watch a language model go on with a text",
    description="Submits the job, and answers with server-sent events: those of `GET /v1/jobs/{id}/events`, "
    "the text in `tokens`, and last of all `result`, with the job's `result` or its `error`. A reader that "
    "leaves does not stop the job; with the same `Idempotency-Key` it is watched again.",
    responses={
        200: {
            "description": "`event:` is the message's type, `data:` the message.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **SUBMIT_PROBLEMS,
    },
    openapi_extra=ask_body(
        StreamAsk, one={"model": "mistral-7b", "prompt": "Three uses for a retired mining rig:"}
    ),
)
async def stream_inference(
    request: Request, context: Context, principal: Client, idempotency_key: IdempotencyKey = None
) -> Response:
    ask = await read_ask(request, context, principal, StreamAsk)
    fields = job_fields(ask, stream=True)
    submitted = await accept(request, context, principal, fields, idempotency_key)
    pieces = _stream(request, context, principal, submitted.job_id)
    return EventStream(pieces, headers={**STREAM_HEADERS, **headers_of(submitted)})


async def _stream(
    request: Request, context: EdgeContext, principal: Principal, job_id: UUID
) -> AsyncIterator[bytes]:
    async for event in follow_job(request, context, job_id):
        yield event
    # The end is in the log; the read models have it a moment later.
    row = await final_job(context, principal, job_id, context.limits.at_least_seconds)
    if not row.is_final:
        return  # the stream was ended before the job: the server stops, or the key is revoked
    told: dict[str, Any] = {"type": "result", "job_id": str(job_id), "state": row.state}
    found = await result_pieces(context, row) if row.is_completed else None
    if found is None:
        error = row.error or JobError(code=row.state, message="")  # completed, and the result was erased
        told["error"] = error.model_dump()
        yield b"event: result\ndata: " + json.dumps(told).encode() + b"\n\n"
        return
    # The stored document is one line, which is what an event's data has to be.
    yield b"event: result\ndata: " + json.dumps(told)[:-1].encode() + b', "result": '
    async for piece in found:
        yield piece
    yield b"}\n\n"
