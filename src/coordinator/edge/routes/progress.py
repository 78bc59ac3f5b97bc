"""What a miner says of an attempt while it runs: it is passed on to whoever watches, and not kept."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.live.progress import ProgressReport
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import command_body, read_object, take_text
from coordinator.edge.http.commands import miner_of, same_job
from coordinator.edge.http.problems import describe_problems
from coordinator.edge.http.reading import reply
from coordinator.edge.middleware.credentials import Miner
from coordinator.edge.models.miners import ProgressAnswer
from coordinator.validation import describe_invalid

router = APIRouter(prefix="/miners/{job_id}", tags=["miners"])


@router.post(
    "/progress",
    response_model=ProgressAnswer,
    summary="Say how far an attempt is",
    description="And what its text output grew by: `text`, after `offset` characters. At most one request "
    "at a time for an attempt: gather meanwhile what comes. Where it fails, the next one may say it again. "
    "`whole` in the answer asks for all of the text, from `offset` 0, as somebody may begin to watch.",
    responses=describe_problems(
        Code.INVALID_PAYLOAD,
        Code.UNAUTHORIZED_KEY,
        Code.FORBIDDEN,
        Code.STALE_ATTEMPT,
        Code.TOO_LARGE,
        Code.UNAVAILABLE,
    ),
    openapi_extra=command_body(
        ProgressReport,
        omit=("job_id",),
        optional=("miner_id", "session_id"),
        example={"attempt": 1, "seq": 7, "fraction": 0.25, "note": "decoding", "text": " upon", "offset": 4},
    ),
)
async def report_progress(request: Request, context: Context, principal: Miner, job_id: UUID) -> Response:
    fields = same_job(await read_object(request, context.limits), job_id)
    whole = await context.live.report(principal, await parse_report(context, principal, fields))
    position = context.live.events.position
    return reply(ProgressAnswer(status="accepted", position=position, whole=whole), position)


async def parse_report(context: EdgeContext, principal: Principal, fields: dict[str, Any]) -> ProgressReport:
    """The report with these fields; without a session, that of who holds the job. Raises Refusal."""
    miner_id = miner_of(principal, take_text(fields, "miner_id"))
    session_id = take_text(fields, "session_id")
    try:
        report = ProgressReport.model_validate(
            {**fields, "miner_id": miner_id, "session_id": session_id or "unnamed-"}
        )
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None
    if session_id is None:
        holder = await context.live.lease_holders.holder(report.job_id)
        if holder is not None and holder.miner_id == miner_id:
            return report.model_copy(update={"session_id": holder.session_id})
    return report
