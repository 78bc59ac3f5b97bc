"""What a job gave: its result, waited for if need be, and its receipt."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Header, Query
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from coordinator.application.commands.payload_bodies import blob_behind
from coordinator.application.ports import PayloadKind, StoredPayload
from coordinator.domain.errors import Code
from coordinator.domain.job import FINAL_STATES, JobCompleted
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext, in_thread
from coordinator.edge.http.conditional import NOT_MODIFIED, IfNoneMatch, answer_with_tag
from coordinator.edge.http.job_watch import JobWatch, wait_asked
from coordinator.edge.http.problems import Problem, describe_problems
from coordinator.edge.http.reading import POSITION_HEADER, Position, find_job, reply
from coordinator.edge.middleware.credentials import Client
from coordinator.edge.models.base import moment, rfc3339
from coordinator.edge.models.jobs import JobResult, Receipt, ReceiptPage

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])

_READING_PROBLEMS: Final = (
    Code.INVALID_PAYLOAD,
    Code.UNAUTHORIZED_KEY,
    Code.FORBIDDEN,
    Code.JOB_NOT_FOUND,
    Code.UNAVAILABLE,
)
_COMPLETED_PROBLEMS: Final = (*_READING_PROBLEMS, Code.JOB_NOT_READY, Code.CONFLICT_STATE)


@router.get(
    "/result",
    response_model=JobResult,
    summary="Get a job's result",
    description="425 JOB_NOT_READY until the job is final; 409 CONFLICT_STATE with the job's error where it "
    "ended without a result. Waits for the end if asked to, up to 30 seconds.",
    responses=describe_problems(*_COMPLETED_PROBLEMS, Code.BLOB_NOT_FOUND),
)
async def get_result(
    request: Request,
    context: Context,
    principal: Client,
    position: Position,
    job_id: UUID,
    prefer: Annotated[
        str | None, Header(alias="Prefer", description="`wait=N`: wait up to N seconds (RFC 7240).")
    ] = None,
    wait: Annotated[str | None, Query(description="The same as `Prefer: wait=N`, in seconds.")] = None,
) -> Response:
    seconds, applied = wait_asked(wait, prefer, context.limits.wait_seconds)
    watch: JobWatch = request.app.state.job_watch
    row = await final_job(context, watch, principal, job_id, seconds)
    headers = {POSITION_HEADER: str(max(position, row["position"])), **applied}
    _check_completed(row, headers)
    stored = await stored_document(context, job_id, "result")
    if stored is None:
        raise Problem(
            Code.BLOB_NOT_FOUND, "the result was erased; the receipt still proves that it was there"
        )
    head, tail = _around_result(row, stored)
    blob = blob_behind(stored, row["result_digest"])
    if blob is None:
        return Response(head + stored.body + tail, headers=headers, media_type="application/json")
    pieces = await begun(context.blobs.get(blob))
    return StreamingResponse(_joined(head, pieces, tail), headers=headers, media_type="application/json")


@router.get(
    "/receipt",
    response_model=Receipt,
    summary="Get a job's receipt",
    description="Verify it offline, with public keys alone.",
    responses={**NOT_MODIFIED, **describe_problems(*_COMPLETED_PROBLEMS)},
)
async def get_receipt(
    context: Context,
    principal: Client,
    position: Position,
    job_id: UUID,
    if_none_match: IfNoneMatch = None,
) -> Response:
    row = await find_job(context, principal, job_id)
    _check_completed(row, {POSITION_HEADER: str(position)})
    receipts = await _receipts_of(context, job_id)
    if not receipts:  # tables that somebody has changed by hand, or restored in part: not the caller's fault
        structlog.get_logger("edge").error("a completed job has no receipt in the tables", job=str(job_id))
        raise Problem(Code.UNAVAILABLE, "the receipt can't be found now; it is in the log")
    return answer_with_tag(to_json(receipts[0]), position, if_none_match)


@router.get(
    "/receipts",
    response_model=ReceiptPage,
    summary="List a job's receipts",
    description="None until the job is completed, then one: a job is paid once.",
    responses=describe_problems(*_READING_PROBLEMS),
)
async def list_receipts(context: Context, principal: Client, position: Position, job_id: UUID) -> Response:
    await find_job(context, principal, job_id)
    receipts = [Receipt.model_validate(receipt) for receipt in await _receipts_of(context, job_id)]
    return reply(ReceiptPage(items=receipts, next_cursor=None), position)


async def _receipts_of(context: EdgeContext, job_id: UUID) -> list[dict[str, Any]]:
    """The signed receipts of a job, as the log has them."""
    rows = await context.read("read_receipt", job_id=str(job_id))
    found = await in_thread(lambda: [e for row in rows for e in context.log.read(row["position"] - 1, 1)])
    return [recorded.event.receipt for recorded in found if isinstance(recorded.event, JobCompleted)]


# --- documents beside the log ------------------------------------------------------------------------------
async def stored_document(context: EdgeContext, job_id: UUID, kind: PayloadKind) -> StoredPayload | None:
    """A job's payload or result as it is stored; None where there is none (any more)."""
    stored = await in_thread(lambda: context.log.payloads(kind, [job_id]))
    return stored.get(job_id)


async def result_pieces(context: EdgeContext, row: dict[str, Any]) -> AsyncIterator[bytes] | None:
    """The result document of a completed job, as JSON in pieces; None where it was erased."""
    stored = await stored_document(context, UUID(row["job_id"]), "result")
    if stored is None:
        return None
    blob = blob_behind(stored, row["result_digest"])
    return _joined(stored.body, None, b"") if blob is None else await begun(context.blobs.get(blob))


async def begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, the first of them read already: what fails at once still fails as a problem."""
    first = await anext(pieces, b"")
    return _joined(first, pieces, b"")


async def _joined(head: bytes, pieces: AsyncIterator[bytes] | None, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    if pieces is not None:
        async for piece in pieces:
            yield piece
    yield tail


# --- the result --------------------------------------------------------------------------------------------
async def final_job(
    context: EdgeContext, watch: JobWatch, principal: Principal, job_id: UUID, seconds: float
) -> dict[str, Any]:
    """The job's row once it is final, or as it is after so many seconds. Raises Refusal."""
    if not seconds or context.stopping.is_set():
        return await find_job(context, principal, job_id)
    with watch.ended(str(job_id)) as ended:
        row = await find_job(context, principal, job_id)
        if row["state"] in FINAL_STATES:
            return row
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)
    return await find_job(context, principal, job_id)


def _check_completed(row: dict[str, Any], headers: dict[str, str]) -> None:
    state = row["state"]
    if state not in FINAL_STATES:
        raise Problem(
            Code.JOB_NOT_READY,
            "the job is not final yet; ask again",
            headers=headers,
            members={"state": state},
        )
    if state != "COMPLETED":
        error = {"code": row["error_code"] or state, "message": row["error_message"] or ""}
        raise Problem(
            Code.CONFLICT_STATE,
            f"the job is {state}: it has no result",
            headers=headers,
            members={"state": state, "error": error},
        )


def _around_result(row: dict[str, Any], stored: StoredPayload) -> tuple[bytes, bytes]:
    """What stands before and after the result document, which may be too large to be parsed again."""
    described = {
        "job_id": row["job_id"],
        "state": row["state"],
        "attempt": row["attempt"],
        "miner_id": row["miner_id"],
        "finished_at": rfc3339(moment(row["finished_at"])),
        "result_digest": row["result_digest"],
        "result_salt": stored.salt.hex(),
    }
    return json.dumps(described)[:-1].encode() + b', "result": ', b"}"
