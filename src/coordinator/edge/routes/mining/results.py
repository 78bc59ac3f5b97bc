"""Results in arrays: a miner with many slots hands in all that are ready with one request."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code
from coordinator.domain.job import JobComplete
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.arrays import send_array, take_array
from coordinator.edge.http.bodies import array_body, nothing_else, read_object
from coordinator.edge.http.commands import with_session
from coordinator.edge.http.credentials import Miner
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import reply
from coordinator.edge.models.base import ArrayAnswer
from coordinator.edge.routes.mining.attempts import RESULT_EXAMPLE

router = APIRouter(prefix="/miners", tags=["miners"])

_SENDER: Final[tuple[str, ...]] = ("miner_id", "session_id")


@router.post(
    "/results",
    response_model=ArrayAnswer,
    summary="Hand in many results",
    description="Up to 500 results, each with the members of a single one and its `job_id`. Each is accepted "
    "or refused alone: `answers` is in the order of `results`. Repeat the request until it is answered.",
    responses=refusals(Code.FORBIDDEN, Code.MINER_NOT_FOUND, Code.TOO_LARGE),
    openapi_extra=array_body(
        "results",
        JobComplete,
        example={"job_id": "0190163d-8694-739b-aea5-966c26f8ad91", **RESULT_EXAMPLE},
        optional=_SENDER,
    ),
)
async def complete_attempts(request: Request, context: Context, principal: Miner) -> Response:
    body = await read_object(request, context.limits)
    results = take_array(body, "results")
    own = {name: body.pop(name) for name in _SENDER if name in body}
    nothing_else(body)
    said = await decide_results(request, context, principal, results, own)
    return reply(said, said.position)


async def decide_results(
    request: Request, context: EdgeContext, principal: Principal, results: list[Any], own: dict[str, Any]
) -> ArrayAnswer:
    """Decide the results together; `own` may name their miner and session. Raises Refusal."""
    sender = await with_session(context, principal, own)

    def complete(fields: dict[str, Any]) -> dict[str, Any]:
        return {**sender, **fields}

    return await send_array(context, principal, JobComplete.topic, results, complete, request)
