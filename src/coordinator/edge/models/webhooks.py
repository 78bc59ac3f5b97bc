"""Webhooks, and the log of deliveries."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from coordinator.edge.models.base import CommandAnswer, Moment, View

DeliveryState = Literal["PENDING", "DELIVERED", "FAILED"]


class WebhookAnswer(CommandAnswer):
    webhook_id: UUID
    owner: str
    enabled: bool


class WebhookSecretAnswer(WebhookAnswer):
    """The secret stays readable for its owner at `/v1/webhooks/{webhook_id}/secret`."""

    generation: int
    secret: str = Field(description="`whsec_…`: verifies the `v1` signatures.")
    public_key: str = Field(description="`whpk_…`: verifies the `v1a` signatures.")


class SecretView(View):
    """What verifies a webhook's messages. Keep `secret` as safe as an API key."""

    webhook_id: UUID
    generation: int
    secret: str
    public_key: str


class WebhookView(View):
    """A webhook, and how its receiver fared."""

    webhook_id: UUID
    owner: str
    role: str
    """Of the owner: it decides whose jobs and miners the messages are about."""
    url: str | None
    """Null for others than its owner, and if the signing key that sealed it is gone."""
    host: str
    events: list[str]
    label: str
    enabled: bool
    disabled_reason: str | None
    """Why the coordinator disabled it."""
    generation: int
    """Of its secret."""
    old_until: Moment | None
    """The end of the secret before."""
    created_at: Moment
    changed_at: Moment
    failures: int
    """Failed tries in a row."""
    succeeded_at: Moment | None
    failed_at: Moment | None
    last_error: str | None
    position: int


class WebhookPage(View):
    items: list[WebhookView]
    next_cursor: str | None


class AttemptView(View):
    """One try. `status` is null if there was no answer; then `error` says why."""

    at: Moment
    status: int | None
    ms: int
    error: str | None


class DeliveryView(View):
    """A message and what became of it. `delivery_id` is its `webhook-id`."""

    delivery_id: str
    webhook_id: UUID
    owner: str
    type: str
    subject: str
    """The job, the miner, or the fault that it is about."""
    at: Moment
    """Of the event."""
    state: DeliveryState
    round: int
    """How often it was replayed."""
    tries: int
    """Of this round."""
    due_at: Moment | None
    """The next try."""
    done_at: Moment | None
    attempts: list[AttemptView]
    """The newest tries, oldest first."""
    position: int


class DeliveryPage(View):
    items: list[DeliveryView]
    next_cursor: str | None


class AlarmAnswer(CommandAnswer):
    type: str
    subject: str
    fault_position: int
