"""Miners: register, heartbeat, drain, leave, quarantine, release, list.

Their work is in `polling` and `attempts`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.matching.needs import Capabilities
from coordinator.domain.messages import READS_ALL, Role
from coordinator.domain.miner import MinerDrain, MinerLeave, MinerRegister
from coordinator.domain.standing import StandingQuarantine, StandingRelease
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import read_object, request_body, take_text
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.commands import (
    accepted,
    checked_miner_id,
    miner_of,
    new_session_id,
    with_session,
)
from coordinator.edge.http.credentials import Miner, MinerOrOperator, MinerOrReader, ReaderOfAll
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.listing import MINER_CURSOR, MinersQuery
from coordinator.edge.http.reads.reading import Position, cursor_after, read_cursor, reply
from coordinator.edge.models.miners import (
    HeartbeatAnswer,
    MinerAnswer,
    MinerPage,
    MinerRegisterAnswer,
    MinerView,
    StandingAnswer,
)
from coordinator.validation import describe_invalid
from coordinator.wire.heartbeat import Heartbeat

router = APIRouter(prefix="/miners", tags=["miners"])

MinerIdInPath = Annotated[str, Path(json_schema_extra={"pattern": f"^{MINER_CURSOR}$"})]
_REGION: Final = Capabilities.model_json_schema()["properties"]["region"]
_SENDER: Final = ("miner_id", "session_id")
_REFUSED: Final = (Code.MINER_NOT_FOUND, Code.SESSION_NOT_LIVE)


async def _register_fields(request: Request, context: Context, principal: Miner) -> dict[str, Any]:
    fields = await read_object(request, context.limits)
    fields["miner_id"] = miner_of(principal, take_text(fields, "miner_id"))
    fields.setdefault("session_id", new_session_id())
    _take_region(fields)
    return fields


async def _session_fields(request: Request, context: Context, principal: Miner) -> dict[str, Any]:
    return await with_session(context, principal, await read_object(request, context.limits))


async def _drain_fields(request: Request, context: Context, principal: MinerOrOperator) -> dict[str, Any]:
    fields = await read_object(request, context.limits)
    if principal.role is Role.MINER:
        fields["miner_id"] = miner_of(principal, take_text(fields, "miner_id"))
    return fields


async def _standing_fields(request: Request, context: Context) -> dict[str, Any]:
    return await read_object(request, context.limits)


command_route(
    router,
    "POST",
    "/register",
    MinerRegister,
    MinerRegisterAnswer,
    name="register_miner",
    summary="Begin a session",
    description="Without a `session_id` every call begins another session; with one, a repeat gets the first "
    "answer. `miner_id` is the key's name unless the body says `node@name`.",
    fields=_register_fields,
    optional=_SENDER,
    members={"region": {**_REGION, "description": "The same as capabilities.region."}},
    example={
        "capabilities": {
            "services": ["checksum"],
            "gpus": [{"name": "NVIDIA GeForce RTX 4090", "memory_mb": 24564}],
            "cuda": "12.4",
        },
        "concurrency": 1,
        "public_key": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    },
    refused=(Code.SESSION_NOT_LIVE, Code.IDEMPOTENCY_MISMATCH),
)
command_route(
    router,
    "POST",
    "/drain",
    MinerDrain,
    MinerAnswer,
    name="drain_miner",
    summary="Drain a miner",
    description="The miner finishes its work and gets no more. An operator may drain any miner, by "
    "`miner_id`.",
    fields=_drain_fields,
    optional=_SENDER,
    example={},
    refused=_REFUSED,
)
command_route(
    router,
    "POST",
    "/leave",
    MinerLeave,
    MinerAnswer,
    name="leave_miner",
    summary="End the session",
    description="Its unfinished attempts go to other miners.",
    fields=_session_fields,
    optional=_SENDER,
    example={},
    refused=_REFUSED,
)


command_route(
    router,
    "POST",
    "/quarantine",
    StandingQuarantine,
    StandingAnswer,
    name="quarantine_miners",
    summary="Quarantine a principal's miners",
    description="They get no more jobs of this service, or of any without `service`, until an admin releases "
    "them. Running attempts go on.",
    fields=_standing_fields,
    example={"principal": "rig", "service": "checksum", "reason": "returns nonsense"},
)
command_route(
    router,
    "POST",
    "/release",
    StandingRelease,
    StandingAnswer,
    name="release_miners",
    summary="End a quarantine",
    description="The principal's miners begin again with one slot, and get more as they complete jobs.",
    fields=_standing_fields,
    example={"principal": "rig", "service": "checksum", "reason": "mended"},
)


@router.post(
    "/heartbeat",
    response_model=HeartbeatAnswer,
    summary="Report that a session is alive",
    description="Extends the session and the leases of the attempts in `inflight`.",
    responses=refusals(Code.FORBIDDEN, Code.TOO_LARGE, *_REFUSED),
    openapi_extra=request_body(
        Heartbeat,
        optional=_SENDER,
        example={"inflight": [{"job_id": "0190163d-8694-739b-aea5-966c26f8ad91", "attempt": 1}]},
    ),
)
async def heartbeat(request: Request, context: Context, principal: Miner) -> Response:
    fields = await _session_fields(request, context, principal)
    try:
        beat = Heartbeat.model_validate(fields)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None
    [answer] = await context.gateway.heartbeat(principal, [beat])
    said = accepted(answer)
    return reply(HeartbeatAnswer.model_validate(said.to_wire()), said.position)


@router.get(
    "",
    response_model=MinerPage,
    summary="List miners",
    responses=refusals(Code.FORBIDDEN),
)
async def list_miners(
    context: Context, _: ReaderOfAll, position: Position, query: Annotated[MinersQuery, Query()]
) -> Response:
    [after] = read_cursor(query.cursor, MINER_CURSOR) or [""]
    rows = await context.reads.miners(after, query.state or "", page_size=query.limit + 1)
    shown = rows[: query.limit]
    cursor = cursor_after(shown[-1].miner_id) if len(rows) > len(shown) else None
    standings = await context.reads.standings(row.miner_id for row in shown)
    return reply(MinerPage(items=[row.view(standings) for row in shown], next_cursor=cursor), position)


@router.get(
    "/{miner_id}",
    response_model=MinerView,
    summary="Show a miner",
    description="For viewers, operators and admins, and for the miner itself. `standing` says what its "
    "principal's miners did of late for each service, how many jobs they get, why, and what would change it.",
    responses=refusals(Code.FORBIDDEN, Code.MINER_NOT_FOUND),
)
async def show_miner(
    context: Context, principal: MinerOrReader, position: Position, miner_id: MinerIdInPath
) -> Response:
    miner_id = checked_miner_id(miner_id)
    seen = principal.role in READS_ALL or principal.owns_miner(miner_id)
    row = await context.reads.miner(miner_id) if seen else None
    if row is None:
        raise Refusal(Code.MINER_NOT_FOUND, "no such miner")
    standings, gpu_memory = await asyncio.gather(
        context.reads.standings([miner_id]), context.reads.gpu_memory(miner_id)
    )
    return reply(row.view(standings, gpu_memory), position)


def _take_region(fields: dict[str, Any]) -> None:
    """Move a region beside the capabilities into them."""
    region = take_text(fields, "region")
    capabilities = fields.get("capabilities")
    if region is None or not isinstance(capabilities, dict):
        return  # the command's own check refuses invalid capabilities
    if capabilities.get("region", region) != region:
        raise Refusal(Code.INVALID_PAYLOAD, "region: differs from capabilities.region; send one of the two")
    fields["capabilities"] = {**capabilities, "region": region}
