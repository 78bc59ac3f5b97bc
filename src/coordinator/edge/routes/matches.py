"""Why a job waits, and why a miner has no work."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import READS_ALL
from coordinator.edge.context import Context
from coordinator.edge.http.commands import checked_miner_id
from coordinator.edge.http.credentials import MinerOrReader, Reader
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.listing import MINER_CURSOR
from coordinator.edge.http.reads.matching import match_of_job, match_of_miner
from coordinator.edge.http.reads.reading import Position, reply
from coordinator.edge.models.matches import JobMatch, MinerMatch

jobs = APIRouter(prefix="/jobs", tags=["jobs"])
miners = APIRouter(prefix="/miners", tags=["miners"])

MinerIdInPath = Annotated[str, Path(json_schema_extra={"pattern": f"^{MINER_CURSOR}$"})]


@jobs.get(
    "/{job_id}/match",
    response_model=JobMatch,
    summary="Why a job waits",
    description="How many live miners fail which constraint, and the smallest changes of one constraint that "
    "would find a miner. `sentence` says it in plain words. Of a job that runs or is final it says how it "
    "is, or how it ended. The miners' names are not for clients.",
    responses=refusals(Code.FORBIDDEN, Code.JOB_NOT_FOUND),
)
async def match_job(context: Context, principal: Reader, position: Position, job_id: UUID) -> Response:
    return reply(await match_of_job(context, principal, job_id), position)


@miners.get(
    "/{miner_id}/match",
    response_model=MinerMatch,
    summary="Why a miner has no work",
    description="How many queued jobs need what the miner lacks, and the smallest changes of one capability "
    "that would bring it jobs. For viewers, operators and admins, and for the miner itself.",
    responses=refusals(Code.FORBIDDEN, Code.MINER_NOT_FOUND),
)
async def match_miner(
    context: Context, principal: MinerOrReader, position: Position, miner_id: MinerIdInPath
) -> Response:
    miner_id = checked_miner_id(miner_id)
    seen = principal.role in READS_ALL or principal.owns_miner(miner_id)
    row = await context.reads.miner(miner_id) if seen else None
    if row is None:
        raise Refusal(Code.MINER_NOT_FOUND, "no such miner")
    return reply(await match_of_miner(context, row, names=principal.role in READS_ALL), position)
