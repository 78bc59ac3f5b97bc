"""Jobs: submit, show, list, cancel, erase, and their history. Results are in `results`."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.content import ContentErase
from coordinator.domain.content import sentence as erased_sentence
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobCancel, JobSubmit, JobSubmitAgain, is_job_event, sentence, state_after
from coordinator.domain.messages import READS_ALL
from coordinator.edge.context import Context
from coordinator.edge.http.arrays import send_array, take_array
from coordinator.edge.http.bodies import (
    array_body,
    fill,
    header_text,
    nothing_else,
    read_object,
    request_body,
)
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.commands import same_job
from coordinator.edge.http.credentials import Client, Reader
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.conditional import NOT_MODIFIED, IfNoneMatch, answer_with_tag
from coordinator.edge.http.reads.listing import JobsQuery, read_jobs
from coordinator.edge.http.reads.reading import Position, find_job, may_read, reply
from coordinator.edge.http.reads.stored_payloads import erasures
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer, submit
from coordinator.edge.models.base import ArrayAnswer, moment
from coordinator.edge.models.content import ContentEraseAnswer
from coordinator.edge.models.jobs import (
    HistoryEntry,
    JobCancelAnswer,
    JobHistory,
    JobPage,
    JobSubmitAnswer,
    JobView,
)
from coordinator.edge.routing.path_ids import path_id

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=201,
    response_model=JobSubmitAnswer,
    summary="Submit a job",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=request_body(
        JobSubmit,
        example={
            "service": "checksum",
            "payload": {"text": "hello"},
            "constraints": {"max_price": "0.01"},
            "ttl_seconds": 900,
        },
    ),
)
async def submit_job(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: IdempotencyKey = None,
    prefer: Prefer = None,
) -> Response:
    fields = await read_object(request, context.limits)
    return await submit(request, context, principal, fields, idempotency_key, prefer)


@router.post(
    "/batch",
    response_model=ArrayAnswer,
    summary="Submit many jobs",
    description="Up to 500 jobs, each with the members of a submit and its own `idempotency_key`. They are "
    "decided together, and each is accepted or refused alone: `answers` is in the order of `jobs`.",
    responses=refusals(Code.FORBIDDEN, Code.TOO_LARGE),
    openapi_extra=array_body(
        "jobs",
        JobSubmit,
        example={"service": "checksum", "payload": {"text": "hello"}, "idempotency_key": "1"},
    ),
)
async def submit_jobs(request: Request, context: Context, principal: Client) -> Response:
    body = await read_object(request, context.limits)
    jobs = take_array(body, "jobs")
    nothing_else(body)

    def complete(fields: dict[str, Any]) -> dict[str, Any]:
        return {"ttl_seconds": context.settings.job_ttl_seconds, **fields}

    said = await send_array(context, principal, JobSubmit.topic, jobs, complete, request)
    return reply(said, said.position)


@router.get(
    "",
    response_model=JobPage,
    summary="List jobs",
    description="A client's own jobs; for viewers, operators and admins, all jobs. With `service` a page may "
    "have few jobs, or none, and still a `next_cursor`: each page looks at a bounded number of jobs.",
    responses=refusals(Code.FORBIDDEN),
)
async def list_jobs(
    context: Context, principal: Reader, position: Position, query: Annotated[JobsQuery, Query()]
) -> Response:
    client = None if principal.role in READS_ALL else principal.name
    rows, cursor = await read_jobs(context, query, client)
    return reply(JobPage(items=[row.view() for row in rows], next_cursor=cursor), position)


@router.get(
    "/" + path_id("job_id", other_than=("batch", "batches", "search")),
    response_model=JobView,
    summary="Show a job",
    responses={**NOT_MODIFIED, **refusals(Code.FORBIDDEN, Code.JOB_NOT_FOUND)},
)
async def show_job(
    context: Context,
    principal: Reader,
    position: Position,
    job_id: UUID,
    if_none_match: IfNoneMatch = None,
) -> Response:
    row = await find_job(context, principal, job_id)
    return answer_with_tag(row.view(), max(position, row.position), if_none_match)


@router.get(
    "/{job_id}/history",
    response_model=JobHistory,
    summary="A job's history",
    description="All events of a job, from the log: each with its position, its facts, and a sentence for "
    "people. It is never older than the log. An erasure of its payload or result comes last.",
    responses=refusals(Code.FORBIDDEN, Code.JOB_NOT_FOUND),
)
async def job_history(context: Context, principal: Reader, job_id: UUID) -> Response:
    recorded = (await context.live.events.histories([job_id])).get(job_id, [])
    events = [(r.position, r.event) for r in recorded if is_job_event(r.event)]
    if not events or not may_read(principal, events[0][1].client):
        raise Refusal(Code.JOB_NOT_FOUND, "no such job")
    states = [state for _, event in events if (state := state_after(event)) is not None]
    entries = [
        HistoryEntry(
            position=position,
            at=moment(event.at),
            type=event.topic,
            text=sentence(event),
            event=event.model_dump(mode="json"),
        )
        for position, event in events
    ]
    for position, event in await erasures(context, job_id):
        told = event.model_copy(update={"jobs": (job_id,)})  # the others may be another client's
        entries.append(
            HistoryEntry(
                position=position,
                at=moment(event.at),
                type=event.topic,
                text=erased_sentence(event),
                event=told.model_dump(mode="json"),
            )
        )
    return reply(JobHistory(job_id=job_id, state=states[-1], entries=entries), entries[-1].position)


async def _erase_fields(request: Request, context: Context, job_id: UUID) -> dict[str, Any]:
    return fill(await read_object(request, context.limits), job_ids=[str(job_id)])


command_route(
    router,
    "POST",
    "/{job_id}/erase",
    ContentErase,
    ContentEraseAnswer,
    name="erase_job_content",
    summary="Erase a job's payload and result",
    description="For good, of a final job. An event says what was erased and why; digests and receipt stay. "
    "Files that no other job needs follow. A repeat gets the first answer.",
    fields=_erase_fields,
    example={"reason": "no longer needed", "kinds": ["payload", "result"]},
    omit=("job_ids",),
    refused=(Code.JOB_NOT_FOUND, Code.CONFLICT_STATE),
)


async def _cancel_fields(request: Request, context: Context, job_id: UUID) -> dict[str, Any]:
    return same_job(await read_object(request, context.limits), job_id)


command_route(
    router,
    "POST",
    "/{job_id}/cancel",
    JobCancel,
    JobCancelAnswer,
    name="cancel_job",
    summary="Cancel a job",
    description="Stops a job that is queued or running. A repeat gets the first answer.",
    fields=_cancel_fields,
    example={"reason": "no longer needed"},
    refused=(Code.JOB_NOT_FOUND, Code.CONFLICT_STATE),
)


async def _again_fields(
    request: Request, context: Context, job_id: UUID, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    fields = same_job(await read_object(request, context.limits), job_id)
    if idempotency_key is not None:
        fields = fill(fields, idempotency_key=header_text("Idempotency-Key", idempotency_key))
    return fields


command_route(
    router,
    "POST",
    "/{job_id}/retry",
    JobSubmitAgain,
    JobSubmitAnswer,
    name="retry_job",
    summary="Submit a final job again",
    description="A new job of the same client, with the same payload, needs, time to live, priority and "
    "attempts. With an `Idempotency-Key` a repeat makes no second job. An operator may send it for any "
    "client, whose quota counts the new job.",
    fields=_again_fields,
    example={},
    omit=("idempotency_key",),
    refused=(
        Code.JOB_NOT_FOUND,
        Code.CONFLICT_STATE,
        Code.CONTENT_EXPIRED,
        Code.SERVICE_NOT_FOUND,
        Code.QUEUE_FULL,
        Code.QUOTA_EXCEEDED,
    ),
    status=201,
    location="/v1/jobs/{job_id}",
)
