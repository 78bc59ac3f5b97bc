"""Miners: register, heartbeat, drain, leave; and who there is. Their work is in `polling` and `attempts`."""

from __future__ import annotations

import json
import secrets
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.matching import Capabilities
from coordinator.domain.messages import NAME, Principal, Role
from coordinator.domain.miner import MinerDrain, MinerLeave, MinerRegister
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import command_body, read_object, take_text
from coordinator.edge.http.commands import accepted, checked_miner_id, miner_of, send, session_of
from coordinator.edge.http.problems import describe_problems
from coordinator.edge.http.reading import PageQuery, Position, cursor_after, read_cursor, reply
from coordinator.edge.middleware.credentials import Admin, Miner, MinerOrAdmin
from coordinator.edge.models.miners import (
    HeartbeatAnswer,
    MinerAnswer,
    MinerPage,
    MinerRegisterAnswer,
    MinerState,
    MinerView,
)
from coordinator.validation import describe_invalid
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.topology import control_queue_name, work_queue_name

router = APIRouter(prefix="/miners", tags=["miners"])

SESSION_BYTES: Final = 16
MINER_CURSOR: Final = f"({NAME}@)?{NAME}"
_REGION: Final = Capabilities.model_json_schema()["properties"]["region"]
_WHO: Final = ("miner_id", "session_id")
_SENDING_PROBLEMS: Final = (
    Code.INVALID_PAYLOAD,
    Code.UNAUTHORIZED_KEY,
    Code.FORBIDDEN,
    Code.TOO_LARGE,
    Code.UNAVAILABLE,
    Code.INTERNAL,
)
_SESSION_PROBLEMS: Final = (*_SENDING_PROBLEMS, Code.MINER_NOT_FOUND, Code.SESSION_NOT_LIVE)


class MinersQuery(PageQuery):
    """Which miners."""

    state: MinerState | None = Field(None, description="Only those in this state.")


@router.post(
    "/register",
    response_model=MinerRegisterAnswer,
    summary="Begin a session",
    description="Without a `session_id` every call begins another session; with one, a repeat gets the first "
    "answer. `miner_id` is the key's name unless the body says `node@name`.",
    responses=describe_problems(*_SENDING_PROBLEMS, Code.SESSION_NOT_LIVE, Code.IDEMPOTENCY_MISMATCH),
    openapi_extra=command_body(
        MinerRegister,
        optional=_WHO,
        extra={"region": {**_REGION, "description": "The same as capabilities.region."}},
        example={
            "capabilities": {
                "services": ["checksum"],
                "gpus": [{"name": "NVIDIA GeForce RTX 4090", "memory_mb": 24564}],
                "cuda": "12.4",
            },
            "concurrency": 1,
            "public_key": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        },
    ),
)
async def register_miner(request: Request, context: Context, principal: Miner) -> Response:
    fields = await read_object(request, context.limits)
    fields["miner_id"] = miner_of(principal, take_text(fields, "miner_id"))
    fields.setdefault("session_id", secrets.token_urlsafe(SESSION_BYTES))
    _take_region(fields)
    answer = await send(context, principal, MinerRegister.topic, fields, request)
    told = answer.to_wire()
    return reply(
        MinerRegisterAnswer.model_validate(
            {
                "queue": work_queue_name(told["profile"]),
                "control_queue": control_queue_name(told["miner_id"]),
                "heartbeat_interval_seconds": context.settings.heartbeat_interval_seconds,
                "heartbeat_timeout_seconds": context.settings.heartbeat_timeout_seconds,
                **told,
                "session_token": told["session_id"],
            }
        ),
        answer.position,
    )


@router.post(
    "/heartbeat",
    response_model=HeartbeatAnswer,
    summary="Say that a session is alive",
    description="Extends the session and the leases of what is in `inflight`.",
    responses=describe_problems(*_SESSION_PROBLEMS),
    openapi_extra=command_body(
        Heartbeat,
        optional=_WHO,
        example={"inflight": [{"job_id": "0190163d-8694-739b-aea5-966c26f8ad91", "attempt": 1}]},
    ),
)
async def heartbeat(request: Request, context: Context, principal: Miner) -> Response:
    fields = await _with_session(context, principal, await read_object(request, context.limits))
    try:
        beat = Heartbeat.model_validate(fields)
    except ValidationError as error:
        raise Refusal(Code.INVALID_PAYLOAD, describe_invalid(error)) from None
    [answer] = await context.gateway.heartbeat(principal, [beat])
    said = accepted(answer)
    return reply(HeartbeatAnswer.model_validate(said.to_wire()), said.position)


@router.post(
    "/drain",
    response_model=MinerAnswer,
    summary="Finish what is held, get nothing new",
    description="An admin may drain any miner, and names it by `miner_id`.",
    responses=describe_problems(*_SESSION_PROBLEMS),
    openapi_extra=command_body(MinerDrain, optional=_WHO, example={}),
)
async def drain_miner(request: Request, context: Context, principal: MinerOrAdmin) -> Response:
    fields = await read_object(request, context.limits)
    if principal.role is Role.MINER:
        fields["miner_id"] = miner_of(principal, take_text(fields, "miner_id"))
    answer = await send(context, principal, MinerDrain.topic, fields, request)
    return reply(MinerAnswer.model_validate(answer.to_wire()), answer.position)


@router.post(
    "/leave",
    response_model=MinerAnswer,
    summary="End the session",
    description="What it still holds goes to others.",
    responses=describe_problems(*_SESSION_PROBLEMS),
    openapi_extra=command_body(MinerLeave, optional=_WHO, example={}),
)
async def leave_miner(request: Request, context: Context, principal: Miner) -> Response:
    fields = await _with_session(context, principal, await read_object(request, context.limits))
    answer = await send(context, principal, MinerLeave.topic, fields, request)
    return reply(MinerAnswer.model_validate(answer.to_wire()), answer.position)


@router.get(
    "",
    response_model=MinerPage,
    summary="List miners",
    responses=describe_problems(
        Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.FORBIDDEN, Code.UNAVAILABLE
    ),
)
async def list_miners(
    context: Context, _: Admin, position: Position, query: Annotated[MinersQuery, Query()]
) -> Response:
    [after] = read_cursor(query.cursor, MINER_CURSOR) or [""]
    rows = await context.read("read_miners", after=after, state=query.state or "", page_size=query.limit + 1)
    shown = rows[: query.limit]
    cursor = cursor_after(shown[-1]["miner_id"]) if len(rows) > len(shown) else None
    return reply(MinerPage(items=[view(row) for row in shown], next_cursor=cursor), position)


@router.get(
    "/{miner_id}",
    response_model=MinerView,
    summary="Show a miner",
    description="For admins, and for the miner itself.",
    responses=describe_problems(
        Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.FORBIDDEN, Code.MINER_NOT_FOUND, Code.UNAVAILABLE
    ),
)
async def show_miner(
    context: Context, principal: MinerOrAdmin, position: Position, miner_id: str
) -> Response:
    miner_id = checked_miner_id(miner_id)
    seen = principal.role is Role.ADMIN or principal.owns_miner(miner_id)
    rows = await context.read("read_miner", miner_id=miner_id) if seen else []
    if not rows:
        raise Refusal(Code.MINER_NOT_FOUND, "no such miner")
    return reply(view(rows[0]), position)


async def _with_session(context: EdgeContext, principal: Principal, body: dict[str, Any]) -> dict[str, Any]:
    """The body with the miner and session that it speaks for."""
    miner_id = miner_of(principal, take_text(body, "miner_id"))
    session_id = await session_of(context, miner_id, take_text(body, "session_id"))
    return {**body, "miner_id": miner_id, "session_id": session_id}


def _take_region(fields: dict[str, Any]) -> None:
    """Put a region that stands beside the capabilities among them."""
    region = take_text(fields, "region")
    capabilities = fields.get("capabilities")
    if region is None or not isinstance(capabilities, dict):
        return  # what is wrong with the capabilities, the command's own check says
    if capabilities.get("region", region) != region:
        raise Refusal(Code.INVALID_PAYLOAD, "region: is not capabilities.region; send one of the two")
    fields["capabilities"] = {**capabilities, "region": region}


def view(row: dict[str, Any]) -> MinerView:
    """A row of the read model as it is shown."""
    return MinerView.model_validate({**row, "capabilities": json.loads(row["capabilities_json"])})
