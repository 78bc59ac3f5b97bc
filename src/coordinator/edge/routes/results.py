"""A job's result, with a wait for it if asked, and its receipt."""

from __future__ import annotations

import json
from typing import Annotated, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Header, Query
from pydantic_core import to_json
from starlette.responses import Response

from coordinator.application.ports import StoredPayload
from coordinator.domain.errors import Code
from coordinator.edge.context import Context
from coordinator.edge.http.credentials import Reader
from coordinator.edge.http.problems import Problem, refusals
from coordinator.edge.http.reads.conditional import NOT_MODIFIED, IfNoneMatch, answer_with_tag
from coordinator.edge.http.reads.job_wait import WAIT_SCHEMA, final_job, wait_asked
from coordinator.edge.http.reads.reading import POSITION_HEADER, Position, find_job, reply
from coordinator.edge.http.reads.stored_payloads import (
    Joined,
    Pieces,
    begun,
    expired,
    result_blob,
    stored_payload,
)
from coordinator.edge.models.base import moment, rfc3339
from coordinator.edge.models.jobs import JobResult, Receipt, ReceiptPage
from coordinator.edge.state.tables.rows import JobRow

log = structlog.get_logger("edge")
router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])

_REFUSED: Final = (Code.FORBIDDEN, Code.JOB_NOT_FOUND)
_REFUSED_UNLESS_COMPLETED: Final = (*_REFUSED, Code.JOB_NOT_READY, Code.CONFLICT_STATE)


@router.get(
    "/result",
    response_model=JobResult,
    summary="Get a job's result",
    description="425 JOB_NOT_READY until the job is final; 409 CONFLICT_STATE with the job's error if it "
    "ended without a result. With `wait`, waits for the job's end, up to 30 seconds.",
    responses=refusals(*_REFUSED_UNLESS_COMPLETED, Code.CONTENT_EXPIRED),
)
async def get_result(
    context: Context,
    principal: Reader,
    position: Position,
    job_id: UUID,
    prefer: Annotated[
        str | None, Header(alias="Prefer", description="`wait=N`: wait up to N seconds (RFC 7240).")
    ] = None,
    wait: Annotated[
        str | None,
        Query(description="The same as `Prefer: wait=N`, in seconds.", json_schema_extra=WAIT_SCHEMA),
    ] = None,
) -> Response:
    seconds, applied = wait_asked(wait, prefer, context.limits.wait_seconds)
    row = await final_job(context, principal, job_id, seconds)
    headers = {POSITION_HEADER: str(max(position, row.position)), **applied}
    _check_completed(row, headers)
    stored = await stored_payload(context, job_id, "result")
    if stored is None:
        detail = "the result was erased; the receipt still proves that it existed"
        raise await expired(context, job_id, ("result",), detail, headers=headers)
    before, after = _around_result(row, stored)
    blob = result_blob(stored, row)
    if blob is None:
        return Response(before + stored.body + after, headers=headers, media_type="application/json")
    pieces = await begun(context.blobs.get(blob))
    return Pieces(Joined(before, pieces, after), headers=headers, media_type="application/json")


@router.get(
    "/receipt",
    response_model=Receipt,
    summary="Get a job's receipt",
    description="Verify it offline, with public keys alone.",
    responses={**NOT_MODIFIED, **refusals(*_REFUSED_UNLESS_COMPLETED)},
)
async def get_receipt(
    context: Context,
    principal: Reader,
    position: Position,
    job_id: UUID,
    if_none_match: IfNoneMatch = None,
) -> Response:
    row = await find_job(context, principal, job_id)
    _check_completed(row, {POSITION_HEADER: str(position)})
    receipt = await context.receipts.of(job_id)
    if receipt is None:  # tables that somebody has changed by hand, or of another log: not the caller's fault
        log.error("a job is completed by the tables, and not by the log", job=str(job_id))
        raise Problem(Code.UNAVAILABLE, "the log has no result of this job; try again later")
    return answer_with_tag(to_json(receipt), position, if_none_match)


@router.get(
    "/receipts",
    response_model=ReceiptPage,
    summary="List a job's receipts",
    description="None until the job is completed, then one: a job is paid once.",
    responses=refusals(*_REFUSED),
)
async def list_receipts(context: Context, principal: Reader, position: Position, job_id: UUID) -> Response:
    await find_job(context, principal, job_id)
    receipt = await context.receipts.of(job_id)
    items = [] if receipt is None else [Receipt.model_validate(receipt)]
    return reply(ReceiptPage(items=items, next_cursor=None), position)


def _check_completed(row: JobRow, headers: dict[str, str]) -> None:
    if not row.is_final:
        raise Problem(
            Code.JOB_NOT_READY,
            "the job is not final yet; ask again",
            headers=headers,
            members={"state": row.state},
        )
    if row.error is not None:
        raise Problem(
            Code.CONFLICT_STATE,
            f"the job is {row.state}: it has no result",
            headers=headers,
            members={"state": row.state, "error": row.error.model_dump()},
        )


def _around_result(row: JobRow, stored: StoredPayload) -> tuple[bytes, bytes]:
    """The answer before and after the stored result, which may be too large to be parsed again."""
    assert row.finished_at is not None  # it is completed
    described = {
        "job_id": row.job_id,
        "state": row.state,
        "attempt": row.attempt,
        "miner_id": row.miner_id,
        "finished_at": rfc3339(moment(row.finished_at)),
        "result_digest": row.result_digest,
        "result_salt": stored.salt.hex(),
    }
    return json.dumps(described)[:-1].encode() + b', "result": ', b"}"
