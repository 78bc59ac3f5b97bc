"""What a miner says of an attempt: claimed, done, failed, handed back."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from coordinator.crypto.statement import SignedStatement
from coordinator.domain.errors import Code
from coordinator.domain.job import AttemptCommand, JobComplete, JobFail, JobRelease, JobStart
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import command_body, read_object, take_text
from coordinator.edge.http.commands import miner_of, same_job, send, session_of
from coordinator.edge.http.problems import describe_problems
from coordinator.edge.http.reading import reply
from coordinator.edge.middleware.credentials import Miner
from coordinator.edge.models.miners import AttemptAnswer, ResultAnswer
from coordinator.wire.answers import Accepted

router = APIRouter(prefix="/miners/{job_id}", tags=["miners"])

_WHO: Final = ("miner_id", "session_id")
_ENDING_PROBLEMS: Final = (
    Code.INVALID_PAYLOAD,
    Code.UNAUTHORIZED_KEY,
    Code.FORBIDDEN,
    Code.JOB_NOT_FOUND,
    Code.MINER_NOT_FOUND,
    Code.STALE_ATTEMPT,
    Code.CONFLICT_STATE,
    Code.TOO_LARGE,
    Code.UNAVAILABLE,
    Code.INTERNAL,
)
_CLAIMING_PROBLEMS: Final = (
    *_ENDING_PROBLEMS,
    Code.SESSION_NOT_LIVE,
    Code.MINER_DRAINING,
    Code.NOT_CAPABLE,
)


@router.post(
    "/start",
    response_model=AttemptAnswer,
    summary="Claim an attempt",
    description="For offers that came over AMQP; what `poll` gives is claimed already, and a repeat is fine.",
    responses=describe_problems(*_CLAIMING_PROBLEMS),
    openapi_extra=command_body(JobStart, omit=("job_id",), optional=_WHO, example={"attempt": 1}),
)
async def start_attempt(request: Request, context: Context, principal: Miner, job_id: UUID) -> Response:
    return _attempt_reply(await _say(JobStart, request, context, principal, job_id))


@router.post(
    "/result",
    response_model=ResultAnswer,
    summary="Hand in a result",
    description="With the signed statement of work done; the answer has the receipt. Repeat it until "
    "answered: a repeat gets the first answer.",
    responses=describe_problems(*_CLAIMING_PROBLEMS, Code.INVALID_STATEMENT, Code.BLOB_NOT_FOUND),
    openapi_extra=command_body(
        JobComplete,
        omit=("job_id",),
        optional=_WHO,
        typed={"statement": SignedStatement},
        example={
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
        },
    ),
)
async def complete_attempt(request: Request, context: Context, principal: Miner, job_id: UUID) -> Response:
    answer = await _say(JobComplete, request, context, principal, job_id)
    return reply(ResultAnswer.model_validate(answer.to_wire()), answer.position)


@router.post(
    "/fail",
    response_model=AttemptAnswer,
    summary="Report that an attempt failed",
    responses=describe_problems(*_CLAIMING_PROBLEMS),
    openapi_extra=command_body(
        JobFail,
        omit=("job_id",),
        optional=_WHO,
        example={
            "attempt": 1,
            "error_code": "OUT_OF_MEMORY",
            "error_message": "needs 12 GB",
            "retryable": True,
        },
    ),
)
async def fail_attempt(request: Request, context: Context, principal: Miner, job_id: UUID) -> Response:
    return _attempt_reply(await _say(JobFail, request, context, principal, job_id))


@router.post(
    "/release",
    response_model=AttemptAnswer,
    summary="Hand an attempt back unfinished",
    description="It does not count as a failure.",
    responses=describe_problems(*_ENDING_PROBLEMS),
    openapi_extra=command_body(JobRelease, omit=("job_id",), optional=_WHO, example={"attempt": 1}),
)
async def release_attempt(request: Request, context: Context, principal: Miner, job_id: UUID) -> Response:
    return _attempt_reply(await _say(JobRelease, request, context, principal, job_id))


async def _say(
    command: type[AttemptCommand], request: Request, context: EdgeContext, principal: Principal, job_id: UUID
) -> Accepted:
    """Send what is said about an attempt, in the name of the miner's session."""
    fields: dict[str, Any] = same_job(await read_object(request, context.limits), job_id)
    miner_id = miner_of(principal, take_text(fields, "miner_id"))
    session_id = await session_of(context, miner_id, take_text(fields, "session_id"))
    named = {**fields, "miner_id": miner_id, "session_id": session_id}
    return await send(context, principal, command.topic, named, request)


def _attempt_reply(answer: Accepted) -> Response:
    return reply(AttemptAnswer.model_validate(answer.to_wire()), answer.position)
