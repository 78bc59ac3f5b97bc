"""Jobs: submit, look at, list, cancel. What a job gave is in `results`."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.domain.job import JobCancel, JobSubmit
from coordinator.domain.messages import Role
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import command_body, read_object
from coordinator.edge.http.commands import same_job, send
from coordinator.edge.http.conditional import NOT_MODIFIED, IfNoneMatch, answer_with_tag
from coordinator.edge.http.listing import JobsQuery, read_jobs
from coordinator.edge.http.problems import describe_problems
from coordinator.edge.http.reading import Position, find_job, reply
from coordinator.edge.http.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer, submit
from coordinator.edge.middleware.credentials import Client
from coordinator.edge.models.jobs import JobCancelAnswer, JobPage, JobSubmitAnswer, JobView

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=201,
    response_model=JobSubmitAnswer,
    summary="Submit a job",
    description=SUBMIT_TEXT,
    responses=SUBMIT_PROBLEMS,
    openapi_extra=command_body(
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
    description="A client's own jobs; everybody's for an admin. With `service` a page may have few jobs, or "
    "none, and still a `next_cursor`: it looks at a bounded number of jobs.",
    responses=describe_problems(
        Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.FORBIDDEN, Code.UNAVAILABLE
    ),
)
async def list_jobs(
    context: Context, principal: Client, position: Position, query: Annotated[JobsQuery, Query()]
) -> Response:
    client = None if principal.role is Role.ADMIN else principal.name
    rows, cursor = await read_jobs(context, query, client)
    return reply(JobPage(items=[view(row) for row in rows], next_cursor=cursor), position)


@router.get(
    "/{job_id}",
    response_model=JobView,
    summary="Show a job",
    responses={
        **NOT_MODIFIED,
        **describe_problems(
            Code.INVALID_PAYLOAD,
            Code.UNAUTHORIZED_KEY,
            Code.FORBIDDEN,
            Code.JOB_NOT_FOUND,
            Code.UNAVAILABLE,
        ),
    },
)
async def show_job(
    context: Context,
    principal: Client,
    position: Position,
    job_id: UUID,
    if_none_match: IfNoneMatch = None,
) -> Response:
    return answer_with_tag(view(await find_job(context, principal, job_id)), position, if_none_match)


@router.post(
    "/{job_id}/cancel",
    response_model=JobCancelAnswer,
    summary="Cancel a job",
    description="Stops a job that is queued or running. A repeat gets the first answer.",
    responses=describe_problems(
        Code.INVALID_PAYLOAD,
        Code.UNAUTHORIZED_KEY,
        Code.FORBIDDEN,
        Code.JOB_NOT_FOUND,
        Code.CONFLICT_STATE,
        Code.TOO_LARGE,
        Code.UNAVAILABLE,
        Code.INTERNAL,
    ),
    openapi_extra=command_body(JobCancel, omit=("job_id",), example={"reason": "no longer needed"}),
)
async def cancel_job(request: Request, context: Context, principal: Client, job_id: UUID) -> Response:
    fields = same_job(await read_object(request, context.limits), job_id)
    answer = await send(context, principal, JobCancel.topic, fields, request)
    return reply(JobCancelAnswer.model_validate(answer.to_wire()), answer.position)


def view(row: dict[str, Any]) -> JobView:
    """A row of the read model as it is shown."""
    error = {"code": row["error_code"], "message": row["error_message"] or ""} if row["error_code"] else None
    return JobView.model_validate(
        {
            **row,
            "assigned_miner_id": row["miner_id"],
            "constraints": json.loads(row["constraints_json"]),
            "error": error,
        }
    )
