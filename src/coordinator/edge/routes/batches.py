"""Searches for jobs, and bulk cancel and submit-again on all that match."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.batches.batches import JobBatch, JobBatches
from coordinator.application.search.found import FoundJob
from coordinator.application.search.query import MAX_LENGTH, JobQuery
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import READS_ALL, Principal, Role
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import read_object, request_body
from coordinator.edge.http.credentials import Reader, allow
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import PageQuery, Position, reply
from coordinator.edge.models.batches import (
    BatchCancel,
    BatchList,
    BatchPlanView,
    BatchRequest,
    BatchView,
    CountView,
    FoundJobView,
    SearchPage,
)
from coordinator.edge.routing.path_ids import path_id
from coordinator.validation import describe_invalid

router = APIRouter(prefix="/jobs", tags=["jobs"])

Starter = Annotated[Principal, Depends(allow(Role.CLIENT, Role.OPERATOR, Role.ADMIN))]
_EXAMPLE = {"kind": "cancel", "query": "state:queued service:whisper age:>1h", "reason": "no longer needed"}


class SearchQuery(PageQuery):
    """A search."""

    q: Annotated[
        str,
        Field(
            max_length=MAX_LENGTH,
            description="Terms such as `state:failed service:whisper client:alice attempt:>1 age:>10m`; all "
            "must hold. Invalid ones are refused.",
        ),
    ] = ""


@router.get(
    "/search",
    response_model=SearchPage,
    summary="Search for jobs",
    description="A client's own jobs; for viewers, operators and admins, all jobs. New jobs never shift a "
    "page. A page looks at a bounded number of jobs, so it may have few jobs, or none, and still a "
    "`next_cursor`.",
    responses=refusals(Code.FORBIDDEN),
)
async def search_jobs(
    context: Context, principal: Reader, position: Position, query: Annotated[SearchQuery, Query()]
) -> Response:
    client = None if principal.role in READS_ALL else principal.name
    page = await context.search.page(client, JobQuery.parse(query.q), query.cursor, query.limit)
    found = SearchPage.model_validate(
        {
            "items": [_job(job) for job in page.jobs],
            "next_cursor": page.next_cursor,
            "looked_to": page.looked_to,
        }
    )
    return reply(found, position)


@router.post(
    "/batches/plan",
    response_model=BatchPlanView,
    summary="See what a batch would do",
    description="A dry run: how many jobs match, in which states, and the first of them. Nothing changes.",
    responses=refusals(Code.FORBIDDEN, Code.TOO_LARGE),
    openapi_extra=request_body(BatchRequest, example=_EXAMPLE),
)
async def plan_batch(request: Request, context: Context, principal: Starter, position: Position) -> Response:
    asked = _request(await read_object(request, context.limits))
    plan = await _batches(context).plan(principal, asked.kind, asked.query)
    return reply(
        BatchPlanView(
            kind=plan.kind,
            query=plan.query,
            total=CountView(**plan.total._asdict()),
            by_state=plan.by_state,
            sample=[_job(job) for job in plan.sample],
        ),
        position,
    )


@router.post(
    "/batches",
    status_code=202,
    response_model=BatchView,
    summary="Cancel or submit again all jobs that match",
    description="The coordinator sends the commands as you, at a bounded rate, also across its restarts. It "
    "acts on jobs that were submitted before now. One batch of a name at a time.",
    responses=refusals(Code.FORBIDDEN, Code.TOO_LARGE, Code.CONFLICT_STATE),
    openapi_extra=request_body(BatchRequest, example=_EXAMPLE),
)
async def begin_batch(request: Request, context: Context, principal: Starter) -> Response:
    asked = _request(await read_object(request, context.limits))
    batch = await _batches(context).begin(principal, asked.kind, asked.query, asked.reason)
    return reply(_view(batch), batch.position, status=202, Location=f"/v1/jobs/batches/{batch.batch_id}")


@router.get(
    "/batches",
    response_model=BatchList,
    summary="List the newest batches",
    description="Your own; for viewers, operators and admins, everybody's.",
    responses=refusals(Code.FORBIDDEN),
)
async def list_batches(context: Context, principal: Reader, position: Position) -> Response:
    newest = await _batches(context).recent(principal)
    return reply(BatchList(items=[_view(batch) for batch in newest]), position)


@router.get(
    "/batches/" + path_id("batch_id", other_than=("plan",)),
    response_model=BatchView,
    summary="Show a batch",
    responses=refusals(Code.FORBIDDEN, Code.BATCH_NOT_FOUND),
)
async def show_batch(context: Context, principal: Reader, position: Position, batch_id: UUID) -> Response:
    batch = await _batches(context).one(principal, batch_id)
    return reply(_view(batch), max(position, batch.position))


@router.post(
    "/batches/{batch_id}/cancel",
    response_model=BatchView,
    summary="Stop a batch",
    description="What is done stays done. A repeat changes nothing.",
    responses=refusals(Code.FORBIDDEN, Code.BATCH_NOT_FOUND, Code.TOO_LARGE),
    openapi_extra=request_body(BatchCancel, example={}),
)
async def cancel_batch(request: Request, context: Context, principal: Starter, batch_id: UUID) -> Response:
    if unknown := await read_object(request, context.limits):
        raise Refusal(Code.INVALID_PAYLOAD, f"{next(iter(unknown))}: no such member; send {{}}")
    batch = await _batches(context).cancel(principal, batch_id)
    return reply(_view(batch), batch.position)


def _batches(context: EdgeContext) -> JobBatches:
    if context.batches is None:
        raise Refusal(Code.UNAVAILABLE, "this process runs no batches; ask another one")
    return context.batches


def _request(body: dict[str, Any]) -> BatchRequest:
    try:
        return BatchRequest.model_validate(body)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None


def _job(job: FoundJob) -> FoundJobView:
    return FoundJobView.model_validate(asdict(job))


def _view(batch: JobBatch) -> BatchView:
    return BatchView.model_validate({**asdict(batch), "total": batch.total._asdict()})
