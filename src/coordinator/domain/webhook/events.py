"""Events of webhooks. None holds a secret or a URL in plain text."""

from __future__ import annotations

from typing import Annotated, Literal, TypeGuard
from uuid import UUID

from pydantic import StringConstraints

from coordinator.domain.job.events import Sealed
from coordinator.domain.key import Generation, Label
from coordinator.domain.messages import Event, Millis, Name, Text
from coordinator.domain.webhook.commands import DeliveryId
from coordinator.domain.webhook.types import MessageType

OwnerRole = Literal["client", "miner", "admin"]
Host = Annotated[str, StringConstraints(max_length=260)]
"""The host of a URL, with its port if that is unusual."""


class WebhookEventBase(Event):
    """The fields of every event of a webhook."""

    webhook_id: UUID
    owner: Name


class WebhookCreated(WebhookEventBase, topic="webhook.created.v1"):
    role: OwnerRole
    """Of the owner: it decides whose jobs and miners the messages are about."""
    host: Host
    sealed_url: Sealed
    events: tuple[MessageType, ...]
    label: Label


class WebhookChanged(WebhookEventBase, topic="webhook.changed.v1"):
    """All that can be changed, as it is from here on."""

    host: Host
    sealed_url: Sealed
    events: tuple[MessageType, ...]
    label: Label
    enabled: bool


class WebhookDisabled(WebhookEventBase, topic="webhook.disabled.v1"):
    """The coordinator sends nothing until the owner enables it."""

    reason: Text


class WebhookRotated(WebhookEventBase, topic="webhook.rotated.v1"):
    generation: Generation
    old_until: Millis
    """The end of the secret before."""


class CallbacksRotated(WebhookEventBase, topic="webhook.callbacks_rotated.v1"):
    """The owner's callbacks have a new secret."""

    generation: Generation
    old_until: Millis


class WebhookTested(WebhookEventBase, topic="webhook.tested.v1"):
    """A test message is due."""


class WebhookReplayed(WebhookEventBase, topic="webhook.replayed.v1"):
    """Messages are due again."""

    deliveries: tuple[DeliveryId, ...] | None
    since: Millis | None


class WebhookRemoved(WebhookEventBase, topic="webhook.removed.v1"):
    pass


WebhookEvent = (
    WebhookCreated
    | WebhookChanged
    | WebhookDisabled
    | WebhookRotated
    | CallbacksRotated
    | WebhookTested
    | WebhookReplayed
    | WebhookRemoved
)
"""Every event of a webhook."""


def is_webhook_event(event: Event) -> TypeGuard[WebhookEvent]:
    """Whether this is an event of a webhook."""
    return isinstance(event, WebhookEventBase)
