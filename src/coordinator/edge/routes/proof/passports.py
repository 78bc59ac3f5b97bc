"""A job's passport: one file that proves the job offline."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic_core import to_json
from starlette.responses import Response

from coordinator.application.proof.passports import NotFinal, Passports
from coordinator.crypto.log.passport import Passport
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.credentials import Reader
from coordinator.edge.http.problems import Problem, refusals
from coordinator.edge.http.proving import WITHOUT_TREE, proof_refused
from coordinator.edge.http.reads.job_wait import WAIT_SCHEMA, final_job, wait_asked
from coordinator.edge.http.reads.reading import POSITION_HEADER, Position

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])

CHECKPOINT_POLL_SECONDS: Final = 0.1
"""Between two looks for the checkpoint that has the job's end: it follows within a second or so."""


@router.get(
    "/passport",
    response_model=Passport,
    name="get_passport",
    summary="Get a job's passport",
    description="Its events with inclusion proofs, receipt, attestations and checkpoint: verify it offline "
    "(docs/passport.md). 425 JOB_NOT_READY until the job is final, 404 NOT_IN_CHECKPOINT until a published "
    "checkpoint has its end; with `wait`, waits for both, up to 30 seconds.",
    responses=refusals(
        Code.FORBIDDEN,
        Code.JOB_NOT_FOUND,
        Code.JOB_NOT_READY,
        Code.NOT_IN_CHECKPOINT,
        Code.INTERNAL,
        Code.UNAVAILABLE,
    ),
)
async def get_passport(
    context: Context,
    principal: Reader,
    position: Position,
    job_id: UUID,
    wait: Annotated[
        str | None,
        Query(
            description="Seconds to wait for the job's end and its checkpoint.", json_schema_extra=WAIT_SCHEMA
        ),
    ] = None,
    with_salts: Annotated[
        bool,
        Query(description="With the salts: whoever has the payload can compare its digest, or guess at it."),
    ] = False,
) -> Response:
    seconds, _ = wait_asked(wait, None, context.limits.wait_seconds)
    until = time.monotonic() + seconds
    row = await final_job(context, principal, job_id, seconds)
    headers = {POSITION_HEADER: str(max(position, row.position))}
    not_final = Problem(
        Code.JOB_NOT_READY,
        "the job is not final yet: a passport proves a whole life; ask again, or with `wait`",
        headers=headers,
        members={"state": row.state},
    )
    if not row.is_final:
        raise not_final
    passports = context.passports
    if passports is None:
        raise Problem(Code.UNAVAILABLE, WITHOUT_TREE)
    try:
        found = await _covered(context, passports, job_id, with_salts, until)
    except NotFinal:
        raise not_final from None
    if found is None:
        raise Refusal(Code.JOB_NOT_FOUND, "no such job")
    return Response(to_json(found), headers=headers, media_type="application/json")


async def _covered(
    context: EdgeContext, passports: Passports, job_id: UUID, with_salts: bool, until: float
) -> dict[str, Any] | None:
    """The passport, as soon as a published checkpoint covers it. Raises Refusal, Problem, NotFinal."""
    while True:
        try:
            with proof_refused():
                return await passports.of(job_id, with_salts=with_salts)
        except Refusal as refusal:
            if refusal.code is not Code.NOT_IN_CHECKPOINT:
                raise
            if time.monotonic() >= until or context.stopping.is_set():
                detail = f"{refusal.detail}; ask again, or with `wait`"
                raise Refusal(refusal.code, detail) from None
        await asyncio.sleep(CHECKPOINT_POLL_SECONDS)
