"""API keys: created, rotated, revoked and listed by an admin. Keys from the settings are not included."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.key import KeyCreate, KeyRevoke, KeyRole, KeyRotate
from coordinator.domain.messages import NAME, Name
from coordinator.edge.context import Context
from coordinator.edge.http.bodies import fill, header_text, read_object
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.credentials import Admin
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import PageQuery, Position, cursor_after, read_cursor, reply
from coordinator.edge.http.submitting import IDEMPOTENCY_KEY_SCHEMA
from coordinator.edge.models.keys import KeyAnswer, KeyPage, KeyView, NewSecretAnswer

router = APIRouter(prefix="/admin/keys", tags=["keys"])

_CURSOR = (NAME, r"[0-9a-f-]{36}")


class KeysQuery(PageQuery):
    """The filters of a list of keys."""

    name: Name | None = Field(None, description="Only keys of this name.")
    role: KeyRole | None = Field(None, description="Only keys of this role.")
    revoked: bool = Field(False, description="Also revoked keys.")


async def _create_fields(
    request: Request,
    context: Context,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="1 to 200 characters; the same key means the same API key.",
            json_schema_extra=IDEMPOTENCY_KEY_SCHEMA,
        ),
    ] = None,
) -> dict[str, Any]:
    fields = await read_object(request, context.limits)
    if idempotency_key is not None:
        fields = fill(fields, idempotency_key=header_text("Idempotency-Key", idempotency_key))
    return fields


async def _key_fields(request: Request, context: Context, key_id: UUID) -> dict[str, Any]:
    return fill(await read_object(request, context.limits), key_id=str(key_id))


command_route(
    router,
    "POST",
    "",
    KeyCreate,
    NewSecretAnswer,
    name="create_key",
    summary="Create an API key",
    description="The coordinator makes the secret, and shows it in this answer only. With an "
    "`Idempotency-Key` a repeat creates no second key, and does not show the secret again: if the answer "
    "was lost, rotate the key.",
    fields=_create_fields,
    omit=("idempotency_key",),
    example={"name": "alice", "role": "client", "label": "her laptop", "expires_in_seconds": 7776000},
    refused=(Code.IDEMPOTENCY_MISMATCH,),
    status=201,
    location="/v1/admin/keys/{key_id}",
)
command_route(
    router,
    "POST",
    "/{key_id}/rotate",
    KeyRotate,
    NewSecretAnswer,
    name="rotate_key",
    summary="Give an API key a new secret",
    description="Only this answer has the new secret. Older secrets are valid for `grace_seconds` more; "
    "name, role and expiry do not change. With `generation` it is refused if another rotation came first.",
    fields=_key_fields,
    example={"grace_seconds": 86400, "generation": 1},
    refused=(Code.KEY_NOT_FOUND, Code.CONFLICT_STATE),
)
command_route(
    router,
    "POST",
    "/{key_id}/revoke",
    KeyRevoke,
    KeyAnswer,
    name="revoke_key",
    summary="Revoke an API key",
    description="For good. The key is invalid in this process with this answer, and in others soon after.",
    fields=_key_fields,
    example={"reason": "lost"},
    refused=(Code.KEY_NOT_FOUND,),
)


@router.get(
    "",
    response_model=KeyPage,
    summary="List API keys, by name",
    description="Keys that were made at run time; keys in the settings are not listed.",
    responses=refusals(Code.FORBIDDEN),
)
async def list_keys(
    context: Context, principal: Admin, position: Position, query: Annotated[KeysQuery, Query()]
) -> Response:
    after_name, after_id = read_cursor(query.cursor, *_CURSOR) or ("", "")
    rows = await context.reads.keys(
        (after_name, after_id),
        name=query.name or "",
        role=query.role or "",
        revoked=query.revoked,
        # One more than is shown, which tells whether there is another page.
        page_size=query.limit + 1,
    )
    shown = rows[: query.limit]
    cursor = cursor_after(shown[-1].name, shown[-1].key_id) if len(rows) > len(shown) else None
    return reply(KeyPage(items=[row.view() for row in shown], next_cursor=cursor), position)


@router.get(
    "/{key_id}",
    response_model=KeyView,
    summary="Show an API key",
    responses=refusals(Code.FORBIDDEN, Code.KEY_NOT_FOUND),
)
async def show_key(context: Context, principal: Admin, position: Position, key_id: UUID) -> Response:
    row = await context.reads.key(str(key_id))
    if row is None:
        raise Refusal(Code.KEY_NOT_FOUND, "no such key; keys in the settings are not listed")
    return reply(row.view(), position)
