"""The read model `webhooks`: the receivers that names have asked to tell. URLs are sealed."""

from __future__ import annotations

from typing import assert_never

from coordinator.application.ports import Recorded, Row
from coordinator.domain.webhook import (
    CallbacksRotated,
    WebhookChanged,
    WebhookCreated,
    WebhookDisabled,
    WebhookRemoved,
    WebhookReplayed,
    WebhookRotated,
    WebhookTested,
    is_webhook_event,
)

TABLE = "webhooks"
KEY = "webhook_id"
EVENTS = (WebhookCreated, WebhookChanged, WebhookDisabled, WebhookRotated, WebhookRemoved)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event changes."""
    assert is_webhook_event(recorded.event)
    return str(recorded.event.webhook_id)


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets."""
    event = recorded.event
    assert is_webhook_event(event)
    moved = {"changed_at": event.at, "position": recorded.position}
    match event:
        case WebhookCreated():
            return {
                "webhook_id": str(event.webhook_id),
                "owner": event.owner,
                "role": event.role,
                "host": event.host,
                "sealed_url": event.sealed_url,
                "events": " ".join(event.events),
                "label": event.label,
                "enabled": 1,
                "disabled_reason": "",
                "generation": 1,
                "old_until": None,
                "created_at": event.at,
                "removed_at": None,
                **moved,
            }
        case WebhookChanged():
            return {
                "host": event.host,
                "sealed_url": event.sealed_url,
                "events": " ".join(event.events),
                "label": event.label,
                "enabled": int(event.enabled),
                "disabled_reason": "",
                **moved,
            }
        case WebhookDisabled():
            return {"enabled": 0, "disabled_reason": event.reason, **moved}
        case WebhookRotated():
            return {"generation": event.generation, "old_until": event.old_until, **moved}
        case WebhookRemoved():
            return {"sealed_url": "", "removed_at": event.at, **moved}
        case WebhookTested() | WebhookReplayed() | CallbacksRotated():
            raise AssertionError("not an event of this read model")
        case _:
            assert_never(event)
