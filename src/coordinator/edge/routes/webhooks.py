"""Webhooks: URLs that are told of jobs, miners and faults; their secrets, and the log of deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coordinator.crypto.webhooks import CannotUnseal, purpose_of_webhook
from coordinator.domain.alarm import AlarmRaise
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import NAME, Principal, Role
from coordinator.domain.webhook import (
    Callbacks,
    Webhook,
    WebhookChange,
    WebhookCreate,
    WebhookRemove,
    WebhookReplay,
    WebhookRotate,
    WebhookSecret,
    WebhookTest,
    callbacks_stream,
    not_found,
    owns_callbacks,
)
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.bodies import fill, header_text, read_object
from coordinator.edge.http.command_route import command_route
from coordinator.edge.http.credentials import Anyone
from coordinator.edge.http.problems import refusals
from coordinator.edge.http.reads.reading import PageQuery, Position, cursor_after, read_cursor, reply
from coordinator.edge.http.submitting import IDEMPOTENCY_KEY_SCHEMA
from coordinator.edge.models.webhooks import (
    AlarmAnswer,
    DeliveryPage,
    DeliveryState,
    DeliveryView,
    SecretView,
    WebhookAnswer,
    WebhookPage,
    WebhookSecretAnswer,
    WebhookView,
)
from coordinator.edge.state.webhooks import NEWEST, DeliveryKey, DeliveryRow, WebhookRow

router = APIRouter(tags=["webhooks"])

CALLBACKS: Final = "callbacks"
_UUID: Final = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_DELIVERY: Final = r"msg_[0-9a-f]{32}"
_CURSOR: Final = (NAME, _UUID)
_DELIVERIES_CURSOR: Final = (r"[0-9]{1,18}", _DELIVERY)
_REFUSED: Final = (Code.WEBHOOK_NOT_FOUND,)


class DeliveriesQuery(PageQuery):
    """The filters of a log of deliveries."""

    state: DeliveryState | None = Field(None, description="Only messages in this state.")
    subject: Annotated[
        str | None, Field(max_length=200, description="Only messages about this job, miner or fault.")
    ] = None


async def _named(
    principal: Anyone,
    webhook_id: Annotated[
        str,
        Path(
            pattern=f"^({CALLBACKS}|{_UUID})$",
            description="A webhook's id, or `callbacks` for the `callback_url` of your jobs.",
        ),
    ],
) -> UUID:
    """The id of the webhook in the path."""
    return callbacks_stream(principal.name) if webhook_id == CALLBACKS else UUID(webhook_id)


Named = Annotated[UUID, Depends(_named)]


async def _create_fields(
    request: Request,
    context: Context,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="1 to 200 characters; the same key means the same webhook.",
            json_schema_extra=IDEMPOTENCY_KEY_SCHEMA,
        ),
    ] = None,
) -> dict[str, Any]:
    fields = await read_object(request, context.limits)
    if idempotency_key is not None:
        fields = fill(fields, idempotency_key=header_text("Idempotency-Key", idempotency_key))
    return fields


async def _webhook_fields(request: Request, context: Context, webhook_id: Named) -> dict[str, Any]:
    return fill(await read_object(request, context.limits), webhook_id=str(webhook_id))


async def _removed_fields(webhook_id: Named) -> dict[str, Any]:
    return {"webhook_id": str(webhook_id)}


async def _alarm_fields(request: Request, context: Context) -> dict[str, Any]:
    return await read_object(request, context.limits)


command_route(
    router,
    "POST",
    "/webhooks",
    WebhookCreate,
    WebhookSecretAnswer,
    name="create_webhook",
    summary="Create a webhook",
    description="Messages are signed by the Standard Webhooks specification; the answer holds the secret. "
    "A client's webhook is told of the ends of its jobs, a miner's of its lost miners, an admin's of what "
    "it names, for all.",
    fields=_create_fields,
    omit=("idempotency_key",),
    example={"url": "https://hooks.example.org/coordinator", "events": ["job.completed", "job.failed"]},
    refused=(Code.IDEMPOTENCY_MISMATCH, Code.QUOTA_EXCEEDED),
    status=201,
    location="/v1/webhooks/{webhook_id}",
)


@router.get(
    "/webhooks",
    response_model=WebhookPage,
    summary="List webhooks",
    description="Your own; for an admin, all of them, without the URLs of others.",
    responses=refusals(Code.FORBIDDEN),
)
async def list_webhooks(
    context: Context, principal: Anyone, position: Position, query: Annotated[PageQuery, Query()]
) -> Response:
    after_owner, after_id = read_cursor(query.cursor, *_CURSOR) or ("", "")
    owner = None if principal.role is Role.ADMIN else (principal.name, principal.role.value)
    rows = await context.webhook_reads.webhooks((after_owner, after_id), query.limit + 1, owner)
    shown = rows[: query.limit]
    cursor = cursor_after(shown[-1].owner, shown[-1].webhook_id) if len(rows) > len(shown) else None
    page = WebhookPage(items=[_view(context, principal, row) for row in shown], next_cursor=cursor)
    return reply(page, position)


@router.get(
    "/webhooks/{webhook_id}",
    response_model=WebhookView,
    summary="Show a webhook",
    responses=refusals(Code.FORBIDDEN, Code.WEBHOOK_NOT_FOUND),
)
async def show_webhook(context: Context, principal: Anyone, position: Position, webhook_id: UUID) -> Response:
    row = await context.webhook_reads.webhook(str(webhook_id))
    if row is None or not _may_see(principal, row):
        raise not_found()
    return reply(_view(context, principal, row), position)


command_route(
    router,
    "PATCH",
    "/webhooks/{webhook_id}",
    WebhookChange,
    WebhookAnswer,
    name="change_webhook",
    summary="Change a webhook",
    description="Members that the body leaves out stay as they are. A webhook that is not `enabled` records "
    "its messages as failed, so that they can be replayed.",
    fields=_webhook_fields,
    example={"enabled": True},
    refused=_REFUSED,
)
command_route(
    router,
    "DELETE",
    "/webhooks/{webhook_id}",
    WebhookRemove,
    WebhookAnswer,
    name="remove_webhook",
    summary="Remove a webhook",
    description="For good. Messages that were not delivered are not sent any more.",
    fields=_removed_fields,
    example={},
    refused=_REFUSED,
)
command_route(
    router,
    "POST",
    "/webhooks/{webhook_id}/rotate",
    WebhookRotate,
    WebhookSecretAnswer,
    name="rotate_webhook_secret",
    summary="Give a webhook a new secret",
    description="Messages carry the signatures of both secrets for `grace_seconds`, a day by default.",
    fields=_webhook_fields,
    example={"grace_seconds": 86400, "generation": 1},
    refused=(*_REFUSED, Code.CONFLICT_STATE),
)
command_route(
    router,
    "POST",
    "/webhooks/{webhook_id}/test",
    WebhookTest,
    WebhookAnswer,
    name="test_webhook",
    summary="Send a test message",
    description="Its outcome is in the log of deliveries; it is tried once.",
    fields=_webhook_fields,
    example={},
    refused=_REFUSED,
)
command_route(
    router,
    "POST",
    "/webhooks/{webhook_id}/replay",
    WebhookReplay,
    WebhookAnswer,
    name="replay_deliveries",
    summary="Send messages again",
    description="`deliveries`: these messages, delivered or not. `since` (Unix milliseconds): all about "
    "events since then that were not delivered. They keep their ids.",
    fields=_webhook_fields,
    example={"since": 1780000000000},
    refused=_REFUSED,
)


@router.get(
    "/webhooks/{webhook_id}/secret",
    response_model=SecretView,
    summary="Show a webhook's secret",
    description="To its owner only.",
    responses=refusals(Code.FORBIDDEN, Code.WEBHOOK_NOT_FOUND),
)
async def show_webhook_secret(
    context: Context, principal: Anyone, position: Position, webhook_id: Named
) -> Response:
    state = await context.gateway.state(webhook_id)
    if owns_callbacks(principal, webhook_id):
        secret = state.secret if isinstance(state, Callbacks) else WebhookSecret()
    elif isinstance(state, Webhook) and _is_owner(principal, state.created.owner, state.created.role):
        secret = state.secret
    else:
        raise not_found()
    keys = context.webhook_keys
    view = SecretView(
        webhook_id=webhook_id,
        generation=secret.generation,
        secret=keys.secret(webhook_id, secret.generation),
        public_key=keys.public_key(webhook_id, secret.generation),
    )
    return reply(view, position, Cache_Control="no-store")


@router.get(
    "/webhooks/{webhook_id}/deliveries",
    response_model=DeliveryPage,
    summary="List a webhook's deliveries",
    description="The newest first, each with its tries. Old ones are removed after WEBHOOK_LOG_HOURS.",
    responses=refusals(Code.FORBIDDEN, Code.WEBHOOK_NOT_FOUND),
)
async def list_deliveries(
    context: Context,
    principal: Anyone,
    position: Position,
    webhook_id: Named,
    query: Annotated[DeliveriesQuery, Query()],
) -> Response:
    await _check_sees(context, principal, webhook_id)
    cursor = read_cursor(query.cursor, *_DELIVERIES_CURSOR)
    before = NEWEST if cursor is None else DeliveryKey(int(cursor[0]), cursor[1])
    rows = await context.webhook_reads.deliveries(
        str(webhook_id),
        before,
        query.limit + 1,
        state=query.state or "",
        subject=query.subject or "",
    )
    shown: list[DeliveryRow] = rows[: query.limit]
    more = len(rows) > len(shown)
    next_cursor = cursor_after(str(shown[-1].position), shown[-1].delivery_id) if more else None
    return reply(DeliveryPage(items=[row.view() for row in shown], next_cursor=next_cursor), position)


@router.get(
    "/webhooks/{webhook_id}/deliveries/{delivery_id}",
    response_model=DeliveryView,
    summary="Show a delivery",
    responses=refusals(Code.FORBIDDEN, Code.WEBHOOK_NOT_FOUND),
)
async def show_delivery(
    context: Context,
    principal: Anyone,
    position: Position,
    webhook_id: Named,
    delivery_id: Annotated[str, Path(pattern=f"^{_DELIVERY}$")],
) -> Response:
    await _check_sees(context, principal, webhook_id)
    row = await context.webhook_reads.delivery(delivery_id)
    if row is None or row.webhook_id != str(webhook_id):
        raise Refusal(Code.WEBHOOK_NOT_FOUND, "no such delivery of this webhook; old ones are removed")
    return reply(row.view(), position)


command_route(
    router,
    "POST",
    "/admin/alarms",
    AlarmRaise,
    AlarmAnswer,
    name="raise_alarm",
    summary="Tell of a divergence",
    description="For auditors: `audit.diverged`, with the kind and the position of the first divergence. "
    "It is recorded in the log once, and told to the webhooks of admins.",
    fields=_alarm_fields,
    example={"type": "audit.diverged", "subject": "price", "fault_position": 1234},
)


async def _check_sees(context: EdgeContext, principal: Principal, webhook_id: UUID) -> None:
    """Raises Refusal unless this principal may see the webhook's deliveries."""
    if owns_callbacks(principal, webhook_id):
        return
    row = await context.webhook_reads.webhook(str(webhook_id))
    # An admin may look at any client's callbacks, too: their ids are in the log.
    if (row is None and principal.role is not Role.ADMIN) or (row and not _may_see(principal, row)):
        raise not_found()


def _view(context: EdgeContext, principal: Principal, row: WebhookRow) -> WebhookView:
    url: str | None = None
    if _is_owner(principal, row.owner, row.role):
        try:
            url = context.webhook_keys.unseal(purpose_of_webhook(UUID(row.webhook_id)), row.sealed_url)
        except CannotUnseal:
            url = None
    return row.view(url)


def _may_see(principal: Principal, row: WebhookRow) -> bool:
    return principal.role is Role.ADMIN or _is_owner(principal, row.owner, row.role)


def _is_owner(principal: Principal, owner: str, role: str) -> bool:
    return principal.name == owner and principal.role.value == role
