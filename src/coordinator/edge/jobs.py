"""Jobs: submit, look at, list, cancel. What a job gave is in `results`."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.domain.job import JobCancel, JobSubmit
from coordinator.domain.messages import Role, ServiceId
from coordinator.edge.auth import Client
from coordinator.edge.bodies import command_body, read_object
from coordinator.edge.context import Context
from coordinator.edge.models import JobCancelAnswer, JobPage, JobState, JobSubmitAnswer, JobView
from coordinator.edge.problems import describe_problems
from coordinator.edge.reading import PageQuery, Position, cursor_after, find_job, read_cursor, reply
from coordinator.edge.sending import same_job, send
from coordinator.edge.submitting import SUBMIT_PROBLEMS, SUBMIT_TEXT, IdempotencyKey, Prefer, submit

router = APIRouter(prefix="/jobs", tags=["jobs"])

_AFTER_ALL = (str(2**62), "")  # a key that every job's comes before, newest first
_CURSOR = (r"[0-9]{1,16}", r"[0-9a-f-]{36}")


class JobsQuery(PageQuery):
    """Which jobs."""

    state: JobState | None = Field(None, description="Only those in this state.")
    service: ServiceId | None = Field(None, description="A registry entry's id.")


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
    summary="List jobs, newest first",
    description="A client's own jobs; everybody's for an admin.",
    responses=describe_problems(
        Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.FORBIDDEN, Code.UNAVAILABLE
    ),
)
async def list_jobs(
    context: Context, principal: Client, position: Position, query: Annotated[JobsQuery, Query()]
) -> Response:
    requested_at, job_id = read_cursor(query.cursor, *_CURSOR) or _AFTER_ALL
    statement = "read_jobs"
    asked: dict[str, Any] = {
        "requested_at": int(requested_at),
        "job_id": job_id,
        "service": query.service or "",
        # One more than is shown tells whether there is another page.
        "page_size": query.limit + 1,
    }
    if principal.role is not Role.ADMIN:
        statement += "_of_client"
        asked["client"] = principal.name
    if query.state:
        statement += "_in_state"
        asked["state"] = query.state
    rows = await context.read(statement, **asked)
    shown = rows[: query.limit]
    more = len(rows) > len(shown)
    cursor = cursor_after(str(shown[-1]["requested_at"]), shown[-1]["job_id"]) if more else None
    return reply(JobPage(items=[view(row) for row in shown], next_cursor=cursor), position)


@router.get(
    "/{job_id}",
    response_model=JobView,
    summary="Show a job",
    responses=describe_problems(
        Code.INVALID_PAYLOAD,
        Code.UNAUTHORIZED_KEY,
        Code.FORBIDDEN,
        Code.JOB_NOT_FOUND,
        Code.UNAVAILABLE,
    ),
)
async def show_job(context: Context, principal: Client, position: Position, job_id: UUID) -> Response:
    return reply(view(await find_job(context, principal, job_id)), position)


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
