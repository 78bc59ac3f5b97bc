"""Jobs: submit, show, list, cancel. Results are in `results`."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.domain.job import JobCancel, JobSubmit
from coordinator.domain.messages import Role
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import read_object, request_body
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.commands import same_job
from coordinator.edge.http.conditional import NOT_MODIFIED, IfNoneMatch, answer_with_tag
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.listing import JobsQuery, read_jobs
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reading import Position, find_job, reply
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer, submit
from coordinator.edge.models.jobs import JobCancelAnswer, JobPage, JobSubmitAnswer, JobView

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


@router.get(
    "",
    response_model=JobPage,
    summary="List jobs",
    description="A client's own jobs; for an admin, all jobs. With `service` a page may have few jobs, or "
    "none, and still a `next_cursor`: each page looks at a bounded number of jobs.",
    responses=refusals(Code.FORBIDDEN),
)
async def list_jobs(
    context: Context, principal: Client, position: Position, query: Annotated[JobsQuery, Query()]
) -> Response:
    client = None if principal.role is Role.ADMIN else principal.name
    rows, cursor = await read_jobs(context, query, client)
    return reply(JobPage(items=[row.view() for row in rows], next_cursor=cursor), position)


@router.get(
    "/{job_id}",
    response_model=JobView,
    summary="Show a job",
    responses={**NOT_MODIFIED, **refusals(Code.FORBIDDEN, Code.JOB_NOT_FOUND)},
)
async def show_job(
    context: Context,
    principal: Client,
    position: Position,
    job_id: UUID,
    if_none_match: IfNoneMatch = None,
) -> Response:
    return answer_with_tag((await find_job(context, principal, job_id)).view(), position, if_none_match)


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
