"""The rules of a webhook: the events that each command leads to."""

from __future__ import annotations

from typing import Any, NamedTuple, assert_never
from uuid import UUID

from coordinator.domain.decision import Decision, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobSubmit
from coordinator.domain.messages import Millis, Principal, Role
from coordinator.domain.webhook.commands import (
    WebhookChange,
    WebhookCommand,
    WebhookCreate,
    WebhookDisable,
    WebhookRemove,
    WebhookReplay,
    WebhookRotate,
    WebhookTest,
)
from coordinator.domain.webhook.events import (
    CallbacksRotated,
    WebhookChanged,
    WebhookCreated,
    WebhookDisabled,
    WebhookEvent,
    WebhookRemoved,
    WebhookReplayed,
    WebhookRotated,
    WebhookTested,
)
from coordinator.domain.webhook.state import (
    Callbacks,
    Removed,
    Webhook,
    WebhookState,
    callbacks_stream,
)
from coordinator.domain.webhook.types import TYPES_OF, USUAL_TYPES, MessageType

MAX_WEBHOOKS = 20
"""Webhooks that one name may have in one role."""


class SealedUrl(NamedTuple):
    """A checked URL of a command, as events hold it."""

    host: str
    sealed: str
    is_same: bool = False
    """Whether the webhook has this URL already; a sealed text has many forms."""


class WebhookContext(NamedTuple):
    """The facts for a decision about a webhook."""

    now: Millis
    principal: Principal
    webhook_id: UUID
    """The stream of the decision; for `webhook.create` the id of the new webhook."""
    url: SealedUrl | None = None
    """The command's URL, if it has one; computed from the command, never stale."""
    others: int = 0
    """The other webhooks that the owner has. Creations at several processes at once may exceed the limit by a
    few, which harms nobody."""


def decide(state: WebhookState, command: WebhookCommand, context: WebhookContext) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case WebhookCreate():
            events = _create(state, command, context)
        case WebhookChange():
            events = _change(_own(state, context), command, context)
        case WebhookRotate():
            events = _rotate(_own_or_callbacks(state, context), command, context)
        case WebhookTest():
            _own(state, context)
            events = [WebhookTested(**_common(state, context))]
        case WebhookReplay():
            known = _own_or_callbacks(state, context)
            if (command.deliveries is None) == (command.since is None):
                raise Refusal(Code.INVALID_PAYLOAD, "deliveries, since: give one of them")
            events = [
                WebhookReplayed(**_common(known, context), deliveries=command.deliveries, since=command.since)
            ]
        case WebhookRemove():
            if isinstance(state, Removed) and _may_change(state.created, context.principal):
                return []
            _own(state, context)
            events = [WebhookRemoved(**_common(state, context))]
        case WebhookDisable():
            if not isinstance(state, Webhook):
                raise not_found()
            disabled = WebhookDisabled(**_common(state, context), reason=command.reason)
            events = [disabled] if state.enabled else []
        case _:
            assert_never(command)
    return on(context.webhook_id, events)


def not_found() -> Refusal:
    """The refusal for an unknown webhook, and for another owner's."""
    return Refusal(Code.WEBHOOK_NOT_FOUND, "no such webhook; the list shows yours")


def _create(state: WebhookState, command: WebhookCreate, context: WebhookContext) -> list[WebhookEvent]:
    principal, url = context.principal, context.url
    assert url is not None
    types = _types(command.events, principal.role)
    if state is not None:
        same = isinstance(state, Webhook) and (
            url.is_same and state.created.events == types and state.created.label == command.label
        )
        if not same:
            raise Refusal(
                Code.IDEMPOTENCY_MISMATCH, "this idempotency key was used for another webhook; use a new one"
            )
        return []
    if context.others >= MAX_WEBHOOKS:
        raise Refusal(
            Code.QUOTA_EXCEEDED, f"{principal.name} has {MAX_WEBHOOKS} webhooks already; remove one first"
        )
    return [
        WebhookCreated(
            at=context.now,
            by=principal.name,
            webhook_id=context.webhook_id,
            owner=principal.name,
            role=principal.role.value,
            host=url.host,
            sealed_url=url.sealed,
            events=types,
            label=command.label,
        )
    ]


def _change(state: Webhook, command: WebhookChange, context: WebhookContext) -> list[WebhookEvent]:
    url = context.url
    events = state.events
    if command.events is not None:
        events = _types(command.events, Role(state.created.role))
    label = state.label if command.label is None else command.label
    enabled = state.enabled if command.enabled is None else command.enabled
    same_url = url is None or url.is_same
    if same_url and (events, label, enabled) == (state.events, state.label, state.enabled):
        return []
    return [
        WebhookChanged(
            **_common(state, context),
            host=state.host if url is None else url.host,
            sealed_url=state.sealed_url if url is None else url.sealed,
            events=events,
            label=label,
            enabled=enabled,
        )
    ]


def _rotate(
    state: Webhook | Callbacks, command: WebhookRotate, context: WebhookContext
) -> list[WebhookEvent]:
    newest = state.secret.generation
    if command.generation not in (None, newest):
        raise Refusal(Code.CONFLICT_STATE, f"the secret is at generation {newest} already; rotate that one")
    until = context.now + command.grace_seconds * 1000
    rotated = CallbacksRotated if isinstance(state, Callbacks) else WebhookRotated
    return [rotated(**_common(state, context), generation=newest + 1, old_until=until)]


def _types(asked: tuple[MessageType, ...] | None, role: Role) -> tuple[MessageType, ...]:
    """These types, each once, in the usual order."""
    if asked is None:
        return USUAL_TYPES[role]
    allowed = TYPES_OF[role]
    for type_ in asked:
        if type_ not in allowed:
            raise Refusal(Code.FORBIDDEN, f"events: a {role.value} key can't ask for {type_}")
    return tuple(type_ for type_ in allowed if type_ in asked)


def owns_callbacks(principal: Principal, webhook_id: UUID) -> bool:
    """Whether this webhook is the callbacks of the sender's own jobs.

    Keys of other roles may have a client's name, and nothing of its secrets.
    """
    return principal.role in JobSubmit.senders and webhook_id == callbacks_stream(principal.name)


def _own(state: WebhookState, context: WebhookContext) -> Webhook:
    if not isinstance(state, Webhook) or not _may_change(state.created, context.principal):
        raise not_found()
    return state


def _own_or_callbacks(state: WebhookState, context: WebhookContext) -> Webhook | Callbacks:
    principal = context.principal
    if owns_callbacks(principal, context.webhook_id):
        return state if isinstance(state, Callbacks) else Callbacks(principal.name)
    return _own(state, context)


def _may_change(created: WebhookCreated, principal: Principal) -> bool:
    return principal.role is Role.ADMIN or (
        principal.name == created.owner and principal.role.value == created.role
    )


def _common(state: WebhookState, context: WebhookContext) -> dict[str, Any]:
    assert isinstance(state, Webhook | Callbacks)
    owner = state.owner if isinstance(state, Callbacks) else state.created.owner
    return {
        "at": context.now,
        "by": context.principal.name,
        "webhook_id": context.webhook_id,
        "owner": owner,
    }
