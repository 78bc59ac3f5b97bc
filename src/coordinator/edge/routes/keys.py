"""API keys: made, rotated, revoked and listed by an admin. Those of the settings are not here."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.key import KeyCreate, KeyRevoke, KeyRotate
from coordinator.domain.messages import NAME, Name, Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import command_body, fill, header_text, read_object
from coordinator.edge.http.commands import send
from coordinator.edge.http.problems import describe_problems
from coordinator.edge.http.reading import PageQuery, Position, cursor_after, read_cursor, reply
from coordinator.edge.middleware.credentials import Admin
from coordinator.edge.models.keys import KeyAnswer, KeyPage, KeyView, NewSecretAnswer
from coordinator.wire.answers import Accepted

router = APIRouter(prefix="/admin/keys", tags=["keys"])

_CURSOR = (NAME, r"[0-9a-f-]{36}")
_PROBLEMS = (Code.INVALID_PAYLOAD, Code.UNAUTHORIZED_KEY, Code.FORBIDDEN, Code.UNAVAILABLE)


class KeysQuery(PageQuery):
    """Which keys."""

    name: Name | None = Field(None, description="Of this name only.")
    role: Literal["client", "miner", "admin"] | None = Field(None, description="In this role only.")
    revoked: bool = Field(False, description="Also those that are revoked.")


@router.post(
    "",
    status_code=201,
    response_model=NewSecretAnswer,
    summary="Create an API key",
    description="We make the secret, and show it in this answer only. With an `Idempotency-Key` a repeat "
    "creates no second key; it does not show the secret again: rotate the key if it was lost on the way.",
    responses=describe_problems(*_PROBLEMS, Code.IDEMPOTENCY_MISMATCH, Code.TOO_LARGE, Code.INTERNAL),
    openapi_extra=command_body(
        KeyCreate,
        omit=("idempotency_key",),
        example={"name": "alice", "role": "client", "label": "her laptop", "expires_in_seconds": 7776000},
    ),
)
async def create_key(
    request: Request,
    context: Context,
    principal: Admin,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key", description="1 to 200 characters; the same key means the same API key."
        ),
    ] = None,
) -> Response:
    fields = await read_object(request, context.limits)
    if idempotency_key is not None:
        fields = fill(fields, idempotency_key=header_text("Idempotency-Key", idempotency_key))
    answer = await send(context, principal, KeyCreate.topic, fields, request)
    made = NewSecretAnswer.model_validate(answer.to_wire())
    return reply(made, answer.position, 201, Location=f"/v1/admin/keys/{made.key_id}")


@router.get(
    "",
    response_model=KeyPage,
    summary="List API keys, by name",
    description="Those that were made at run time; keys in the settings are not listed.",
    responses=describe_problems(*_PROBLEMS),
)
async def list_keys(
    context: Context, principal: Admin, position: Position, query: Annotated[KeysQuery, Query()]
) -> Response:
    after_name, after_id = read_cursor(query.cursor, *_CURSOR) or ("", "")
    rows = await context.read(
        "read_keys",
        after_name=after_name,
        after_id=after_id,
        name=query.name or "",
        role=query.role or "",
        revoked=int(query.revoked),
        # One more than is shown tells whether there is another page.
        page_size=query.limit + 1,
    )
    shown = rows[: query.limit]
    cursor = cursor_after(shown[-1]["name"], shown[-1]["key_id"]) if len(rows) > len(shown) else None
    return reply(KeyPage(items=[_view(row) for row in shown], next_cursor=cursor), position)


@router.get(
    "/{key_id}",
    response_model=KeyView,
    summary="Show an API key",
    responses=describe_problems(*_PROBLEMS, Code.KEY_NOT_FOUND),
)
async def show_key(context: Context, principal: Admin, position: Position, key_id: UUID) -> Response:
    rows = await context.read("read_key", key_id=str(key_id))
    if not rows:
        raise Refusal(Code.KEY_NOT_FOUND, "no such key; keys in the settings are not listed")
    return reply(_view(rows[0]), position)


@router.post(
    "/{key_id}/rotate",
    response_model=NewSecretAnswer,
    summary="Give an API key another secret",
    description="The new secret is in this answer only. Those before it are good for `grace_seconds` more; "
    "name, role and end stay what they are. With `generation` nothing is done where another rotation came "
    "first.",
    responses=describe_problems(
        *_PROBLEMS, Code.KEY_NOT_FOUND, Code.CONFLICT_STATE, Code.TOO_LARGE, Code.INTERNAL
    ),
    openapi_extra=command_body(
        KeyRotate, omit=("key_id",), example={"grace_seconds": 86400, "generation": 1}
    ),
)
async def rotate_key(request: Request, context: Context, principal: Admin, key_id: UUID) -> Response:
    answer = await _send_about(request, context, principal, key_id, KeyRotate.topic)
    return reply(NewSecretAnswer.model_validate(answer.to_wire()), answer.position)


@router.post(
    "/{key_id}/revoke",
    response_model=KeyAnswer,
    summary="Revoke an API key",
    description="For good. It ends here with this answer, in other processes as soon as they hear of it.",
    responses=describe_problems(*_PROBLEMS, Code.KEY_NOT_FOUND, Code.TOO_LARGE, Code.INTERNAL),
    openapi_extra=command_body(KeyRevoke, omit=("key_id",), example={"reason": "lost"}),
)
async def revoke_key(request: Request, context: Context, principal: Admin, key_id: UUID) -> Response:
    answer = await _send_about(request, context, principal, key_id, KeyRevoke.topic)
    return reply(KeyAnswer.model_validate(answer.to_wire()), answer.position)


async def _send_about(
    request: Request, context: EdgeContext, principal: Principal, key_id: UUID, topic: str
) -> Accepted:
    fields = fill(await read_object(request, context.limits), key_id=str(key_id))
    return await send(context, principal, topic, fields, request)


def _view(row: dict[str, Any]) -> KeyView:
    expires_at = row["expires_at"]
    over = expires_at is not None and expires_at <= time.time_ns() // 1_000_000
    state = "REVOKED" if row["revoked_at"] is not None else "EXPIRED" if over else "ACTIVE"
    return KeyView.model_validate({**row, "state": state})
