"""Commands about webhooks."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, StrictBool, StringConstraints

from coordinator.domain.key import Generation, Label
from coordinator.domain.messages import Command, IdempotencyKey, ReceiverUrl, Role, Text
from coordinator.domain.webhook.types import MessageType

MAX_REPLAYED = 100
MAX_GRACE_SECONDS = 30 * 86_400
DAY_SECONDS = 86_400

Types = Annotated[tuple[MessageType, ...], Field(min_length=1, max_length=7)]
DeliveryId = Annotated[str, StringConstraints(pattern=r"^msg_[0-9a-f]{32}$")]
Grace = Annotated[int, Field(strict=True, ge=0, le=MAX_GRACE_SECONDS)]
Moment = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
OWNERS = {Role.CLIENT, Role.MINER, Role.ADMIN}


class WebhookCreate(Command, topic="webhook.create", senders=OWNERS, discloses=True):
    """Have messages sent to a URL, signed as Standard Webhooks say. The answer holds the secret."""

    url: ReceiverUrl
    """A public https URL. It is in no event in plain text, as it may hold a secret itself."""
    events: Types | None = None
    """The types of messages; left out: those that your role usually wants."""
    label: Label = ""
    """Its purpose, for people."""
    idempotency_key: IdempotencyKey | None = None


class WebhookChange(Command, topic="webhook.change", senders=OWNERS):
    """Change a webhook; members left out stay as they are."""

    webhook_id: UUID
    url: ReceiverUrl | None = None
    events: Types | None = None
    label: Label | None = None
    enabled: StrictBool | None = None
    """False: record messages, and send none; true: send again, also after the coordinator disabled it."""


class WebhookRotate(Command, topic="webhook.rotate", senders=OWNERS, discloses=True):
    """Give a webhook a new secret. Messages carry both signatures while the old one is valid."""

    webhook_id: UUID
    """A webhook's id, or that of your callbacks."""
    grace_seconds: Grace = DAY_SECONDS
    """How long messages are signed with the old secret, too."""
    generation: Generation | None = None
    """The generation to replace; if it is no longer the newest, the command is refused."""


class WebhookTest(Command, topic="webhook.test", senders=OWNERS):
    """Send a test message, also to a disabled webhook. Each command sends one."""

    webhook_id: UUID


class WebhookReplay(Command, topic="webhook.replay", senders=OWNERS):
    """Send messages again, under the ids that they had. Name the messages, or a time."""

    webhook_id: UUID
    deliveries: Annotated[tuple[DeliveryId, ...], Field(min_length=1, max_length=MAX_REPLAYED)] | None = None
    """These messages, delivered or not."""
    since: Moment | None = None
    """All messages about events since this moment (Unix milliseconds) that were not delivered."""


class WebhookRemove(Command, topic="webhook.remove", senders=OWNERS):
    """Send nothing more, for good."""

    webhook_id: UUID


class WebhookDisable(Command, topic="webhook.disable", senders={Role.SYSTEM}):
    """Stop sending to a receiver that fails, until its owner enables it again."""

    webhook_id: UUID
    reason: Text


WebhookCommand = (
    WebhookCreate
    | WebhookChange
    | WebhookRotate
    | WebhookTest
    | WebhookReplay
    | WebhookRemove
    | WebhookDisable
)
"""Every command about a webhook."""
