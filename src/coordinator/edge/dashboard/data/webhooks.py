"""The pages Webhooks and Webhook: who is told of what, and the log of deliveries.

A client sees its own webhooks and the callbacks of its jobs; an admin sees all webhooks. URLs are shown by
their host alone: they may hold secrets of their receivers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args
from uuid import UUID

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import NAME, Command, Millis, Role
from coordinator.domain.webhook import WebhookReplay, WebhookTest, callbacks_stream, not_found
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.dashboard.effects import take_effect
from coordinator.edge.dashboard.form_fields import command_of_form
from coordinator.edge.http.reads.reading import cursor_after, read_cursor
from coordinator.edge.models.webhooks import DeliveryState
from coordinator.edge.state.tables.webhooks import (
    NEWEST,
    DeliveryAttempt,
    DeliveryKey,
    DeliveryRow,
    WebhookRow,
)

CALLBACKS: Final = "callbacks"
"""In the place of a webhook's id: the `callback_url` of the viewer's jobs."""
STATES: Final = ("", *get_args(DeliveryState))
_ID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DELIVERIES: Final = (r"[0-9]{1,18}", r"msg_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookLine:
    """One webhook. Moments are Unix milliseconds."""

    webhook_id: str
    owner: str
    role: str
    host: str
    events: tuple[str, ...]
    label: str
    enabled: bool
    disabled_reason: str
    """Why the coordinator disabled it; empty if it did not."""
    failures: int
    """Failed tries in a row."""
    succeeded_at: Millis | None
    failed_at: Millis | None
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookList:
    webhooks: tuple[WebhookLine, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLine:
    """One message, and what became of it."""

    delivery_id: str
    type: str
    subject: str
    """The job, the miner, or the fault that it is about."""
    of_job: bool
    at: Millis
    state: DeliveryState
    round: int
    """How often it was sent again by hand."""
    tries: int
    """Of this round."""
    due_at: Millis | None
    done_at: Millis | None
    attempts: tuple[DeliveryAttempt, ...]
    """The newest tries, the oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLog:
    webhook: WebhookLine | None
    """None for the callbacks of the viewer's jobs."""
    deliveries: tuple[DeliveryLine, ...]
    next_cursor: str | None


async def load(
    context: EdgeContext, viewer: Viewer, cursor: str | None = None, limit: int = 50
) -> WebhookList:
    """A page of webhooks by owner. Raises Refusal."""
    after_owner, after_id = read_cursor(cursor, NAME, _ID) or ("", "")
    owner = None if viewer.is_admin else (_client(viewer), Role.CLIENT.value)
    rows = await context.webhook_reads.webhooks((after_owner, after_id), limit + 1, owner)
    shown = rows[:limit]
    return WebhookList(
        webhooks=tuple(_line(row) for row in shown),
        next_cursor=cursor_after(shown[-1].owner, shown[-1].webhook_id) if len(rows) > len(shown) else None,
    )


async def log_of(
    context: EdgeContext,
    viewer: Viewer,
    webhook_id: str,
    state: str = "",
    cursor: str | None = None,
    limit: int = 50,
) -> DeliveryLog:
    """A page of a webhook's messages, the newest first; an empty state for all. Raises Refusal."""
    if state not in STATES:
        raise Refusal(Code.INVALID_PAYLOAD, f"invalid state: write {', '.join(STATES[1:])}, or nothing")
    webhook = None if webhook_id == CALLBACKS else await _seen(context, viewer, webhook_id)
    stream = str(callbacks_stream(_client(viewer))) if webhook is None else webhook.webhook_id
    found = read_cursor(cursor, *_DELIVERIES)
    before = NEWEST if found is None else DeliveryKey(int(found[0]), found[1])
    rows = await context.webhook_reads.deliveries(stream, before, limit + 1, state=state)
    shown = rows[:limit]
    last = shown[-1] if len(rows) > len(shown) else None
    return DeliveryLog(
        webhook=None if webhook is None else _line(webhook),
        deliveries=tuple(_delivery(row) for row in shown),
        next_cursor=None if last is None else cursor_after(str(last.position), last.delivery_id),
    )


async def test(context: EdgeContext, viewer: Viewer, webhook_id: str) -> int:
    """Send a test message; the position of the effect. Raises Refusal."""
    webhook = await _seen(context, viewer, webhook_id)
    return await _send(
        context, viewer, command_of_form(WebhookTest.topic, {"webhook_id": webhook.webhook_id})
    )


async def replay(context: EdgeContext, viewer: Viewer, webhook_id: str, delivery_id: str) -> int:
    """Send a message again under its id; the position of the effect. Raises Refusal."""
    stream = (
        str(callbacks_stream(_client(viewer)))
        if webhook_id == CALLBACKS
        else (await _seen(context, viewer, webhook_id)).webhook_id
    )
    fields = {"webhook_id": stream, "deliveries": [delivery_id]}
    return await _send(context, viewer, command_of_form(WebhookReplay.topic, fields))


async def _seen(context: EdgeContext, viewer: Viewer, webhook_id: str) -> WebhookRow:
    """The webhook; to others than its owner and admins there is none. Raises Refusal."""
    try:
        row = await context.webhook_reads.webhook(str(UUID(webhook_id)))
    except ValueError:
        row = None
    if row is None or not (viewer.is_admin or (row.owner, row.role) == (viewer.name, viewer.role.value)):
        raise not_found()
    return row


def _client(viewer: Viewer) -> str:
    """The client's name. Raises Refusal for other roles, which have no jobs."""
    if viewer.role is not Role.CLIENT:
        raise Refusal(Code.FORBIDDEN, f"a {viewer.role.value} key can't see a client's webhooks")
    return viewer.name


async def _send(context: EdgeContext, viewer: Viewer, command: Command) -> int:
    return (await take_effect(context, viewer, command)).position


def _line(row: WebhookRow) -> WebhookLine:
    return WebhookLine(
        webhook_id=row.webhook_id,
        owner=row.owner,
        role=row.role,
        host=row.host,
        events=tuple(row.events.split()),
        label=row.label,
        enabled=bool(row.enabled),
        disabled_reason=row.disabled_reason,
        failures=row.failures or 0,
        succeeded_at=row.succeeded_at,
        failed_at=row.failed_at,
        last_error=row.last_error or "",
    )


def _delivery(row: DeliveryRow) -> DeliveryLine:
    return DeliveryLine(
        delivery_id=row.delivery_id,
        type=row.type,
        subject=row.subject,
        of_job=row.type.startswith("job."),
        at=row.at,
        state=row.state,
        round=row.round,
        tries=row.tries,
        due_at=row.due_at,
        done_at=row.done_at,
        attempts=tuple(row.attempts),
    )
