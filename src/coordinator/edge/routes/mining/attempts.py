"""Attempts: start, complete, fail and release; and their progress, which is not kept."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from coordinator.application.live.progress import ProgressReport
from coordinator.crypto.statement import SignedPartialStatement, SignedStatement
from coordinator.domain.account import AccountBill
from coordinator.domain.errors import Code
from coordinator.domain.job import JobComplete, JobFail, JobRelease, JobStart
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import read_object, request_body
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.commands import progress_report, same_job, with_session
from coordinator.edge.http.credentials import Miner
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import reply
from coordinator.edge.models.miners import AttemptAnswer, ProgressAnswer, ResultAnswer, StartAnswer
from coordinator.edge.models.parties.accounts import PaymentAnswer

router = APIRouter(prefix="/miners/{job_id}", tags=["miners"])

_SENDER: Final = ("miner_id", "session_id")
_REFUSED: Final = (Code.JOB_NOT_FOUND, Code.MINER_NOT_FOUND, Code.STALE_ATTEMPT, Code.CONFLICT_STATE)
_REFUSED_CLAIM: Final = (
    *_REFUSED,
    Code.SESSION_NOT_LIVE,
    Code.MINER_DRAINING,
    Code.NOT_CAPABLE,
    Code.NOT_OFFERED,
)

_OF_RESULT: Final = ("result_digest", "completed_at_ms")
RESULT_EXAMPLE: Final[dict[str, Any]] = {
    "attempt": 1,
    "result": {"text": "hello"},
    "result_salt": "6d2f3c0f9a51c0a3b1d4e5f60718293a",
    "statement": {
        "version": "1",
        "job_id": "0190163d-8694-739b-aea5-966c26f8ad91",
        "attempt": 1,
        "miner_id": "rig",
        "session_id": "Zm9yLWV4YW1wbGU",
        "service": "checksum",
        "payload_digest": "0f343b0931126a20f133d67c2b018a3b5e1e2ac1e4b6dbe4d7c3a4b2d1e0f9a8",
        "result_digest": "b0ce697dca7fda3eb9ab1b45be2486577e598582355b5901120e752f2b30fcfb",
        "started_at_ms": 1769860800000,
        "completed_at_ms": 1769860801840,
        "signature": {
            "alg": "Ed25519",
            "key_id": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "sig": "f0" * 43,
        },
    },
    "metrics": {"gpu_milliseconds": 1840},
}

PARTIAL_EXAMPLE: Final[dict[str, Any]] = {
    **{name: value for name, value in RESULT_EXAMPLE["statement"].items() if name not in _OF_RESULT},
    "version": "1 partial",
    "stopped_at_ms": 1769860801840,
}


async def _attempt_fields(
    request: Request, context: Context, principal: Miner, job_id: UUID
) -> dict[str, Any]:
    fields = same_job(await read_object(request, context.limits), job_id)
    return await with_session(context, principal, fields)


command_route(
    router,
    "POST",
    "/start",
    JobStart,
    StartAnswer,
    name="start_attempt",
    summary="Claim an attempt",
    description="For offers over AMQP, with their `token`; offers from `poll` are claimed already. A "
    "repeat is harmless.",
    fields=_attempt_fields,
    optional=_SENDER,
    example={"attempt": 1},
    refused=_REFUSED_CLAIM,
)
command_route(
    router,
    "POST",
    "/result",
    JobComplete,
    ResultAnswer,
    name="complete_attempt",
    summary="Hand in a result",
    description="With the signed statement of work done; the answer has the signed promise of the receipt. "
    "Repeat the request until it is answered: a repeat gets the same promise.",
    fields=_attempt_fields,
    optional=_SENDER,
    members={"statement": SignedStatement},
    example=RESULT_EXAMPLE,
    refused=(*_REFUSED_CLAIM, Code.INVALID_STATEMENT, Code.INVALID_RESULT, Code.BLOB_NOT_FOUND),
)
command_route(
    router,
    "POST",
    "/fail",
    JobFail,
    AttemptAnswer,
    name="fail_attempt",
    summary="Report that an attempt failed",
    fields=_attempt_fields,
    optional=_SENDER,
    example={
        "attempt": 1,
        "error_code": "OUT_OF_MEMORY",
        "error_message": "needs 12 GB",
        "retryable": True,
    },
    refused=_REFUSED_CLAIM,
)
command_route(
    router,
    "POST",
    "/release",
    JobRelease,
    AttemptAnswer,
    name="release_attempt",
    summary="Hand an attempt back unfinished",
    description="It does not count as a failure.",
    fields=_attempt_fields,
    optional=_SENDER,
    example={"attempt": 1},
    refused=_REFUSED,
)


command_route(
    router,
    "POST",
    "/bill",
    AccountBill,
    PaymentAnswer,
    name="bill_attempt",
    summary="Ask for the pay of work on a cancelled job",
    description="Where PARTIAL_PAY_SECONDS is set, a job that was cancelled while its miner worked on it is "
    "paid for that time, by a signed partial statement that comes within so many seconds; `JOB_NOT_FOUND` "
    "means that the job is not settled yet: repeat it a moment later.",
    fields=_attempt_fields,
    optional=_SENDER,
    members={"statement": SignedPartialStatement},
    example={"attempt": 1, "statement": PARTIAL_EXAMPLE},
    refused=(Code.JOB_NOT_FOUND, Code.STALE_ATTEMPT, Code.CONFLICT_STATE, Code.INVALID_STATEMENT),
)


@router.post(
    "/progress",
    response_model=ProgressAnswer,
    summary="Report an attempt's progress",
    description="With its new text output: `text`, after `offset` characters. Send one request at a time for "
    "an attempt, and gather further text meanwhile. After a failed request, the next one may repeat its "
    "text. `whole` in the answer asks for the whole text, from `offset` 0: a new watcher may need it.",
    responses=refusals(Code.FORBIDDEN, Code.STALE_ATTEMPT, Code.TOO_LARGE),
    openapi_extra=request_body(
        ProgressReport,
        omit=("job_id",),
        optional=_SENDER,
        example={"attempt": 1, "seq": 7, "fraction": 0.25, "note": "decoding", "text": " upon", "offset": 4},
    ),
)
async def report_progress(request: Request, context: Context, principal: Miner, job_id: UUID) -> Response:
    fields = same_job(await read_object(request, context.limits), job_id)
    whole = await context.live.report(principal, await progress_report(context, principal, fields))
    position = context.live.events.position
    return reply(ProgressAnswer(status="accepted", position=position, whole=whole), position)
