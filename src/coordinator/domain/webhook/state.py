"""The states of a webhook, and how they follow from its events.

    create -> ENABLED <--change--> DISABLED --remove--> REMOVED

The callbacks of a client (URLs that its jobs name) are signed with one secret, which needs no creation: its
stream begins with the first rotation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never
from uuid import UUID

from coordinator.domain.decision import evolves
from coordinator.domain.messages import CannotFollow, Millis, stream_id
from coordinator.domain.webhook.commands import WebhookCommand
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
from coordinator.domain.webhook.types import MessageType


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """Which secrets sign: they follow from the webhook's id and these numbers."""

    generation: int = 1
    old_until: Millis = 0
    """Until then the generation before signs, too."""

    def generations(self, now: Millis) -> tuple[int, ...]:
        """The generations that sign now, the newest first."""
        newest = self.generation
        return (newest, newest - 1) if newest > 1 and now < self.old_until else (newest,)


@dataclass(frozen=True, slots=True)
class Webhook:
    created: WebhookCreated
    host: str
    sealed_url: str
    events: tuple[MessageType, ...]
    label: str
    enabled: bool = True
    disabled_reason: str = ""
    """Why the coordinator disabled it; empty if its owner did."""
    secret: WebhookSecret = WebhookSecret()


@dataclass(frozen=True, slots=True)
class Removed:
    created: WebhookCreated


@dataclass(frozen=True, slots=True)
class Callbacks:
    """The secret of a client's callbacks."""

    owner: str
    secret: WebhookSecret = WebhookSecret()


WebhookState = Webhook | Removed | Callbacks | None

initial: WebhookState = None


def webhook_stream(owner: str, role: str, idempotency_key: str) -> UUID:
    """The id of the webhook that this owner created under this idempotency key."""
    return stream_id("webhook", owner, role, idempotency_key)


def callbacks_stream(client: str) -> UUID:
    """The id of this client's callbacks, and of the stream of their secret."""
    return stream_id("webhook callbacks", client)


@evolves("webhook")
def evolve(state: WebhookState, event: WebhookEvent) -> WebhookState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    match event:
        case WebhookCreated():
            if state is None:
                return Webhook(event, event.host, event.sealed_url, event.events, event.label)
        case WebhookChanged():
            if isinstance(state, Webhook):
                return replace(
                    state,
                    host=event.host,
                    sealed_url=event.sealed_url,
                    events=event.events,
                    label=event.label,
                    enabled=event.enabled,
                    disabled_reason="",
                )
        case WebhookDisabled():
            if isinstance(state, Webhook):
                return replace(state, enabled=False, disabled_reason=event.reason)
        case WebhookRotated():
            if isinstance(state, Webhook):
                return replace(state, secret=WebhookSecret(event.generation, event.old_until))
        case CallbacksRotated():
            if state is None or isinstance(state, Callbacks):
                return Callbacks(event.owner, WebhookSecret(event.generation, event.old_until))
        case WebhookTested():
            if isinstance(state, Webhook):
                return state
        case WebhookReplayed():
            if isinstance(state, Webhook | Callbacks):
                return state
            if state is None and event.webhook_id == callbacks_stream(event.owner):
                return Callbacks(event.owner)
        case WebhookRemoved():
            if isinstance(state, Webhook):
                return Removed(state.created)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


def answer(state: WebhookState, command: WebhookCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    match state:
        case Webhook():
            return {
                "webhook_id": str(state.created.webhook_id),
                "owner": state.created.owner,
                "events": list(state.events),
                "enabled": state.enabled,
                "generation": state.secret.generation,
            }
        case Removed():
            created = state.created
            return {"webhook_id": str(created.webhook_id), "owner": created.owner, "enabled": False}
        case Callbacks():
            return {
                "webhook_id": str(callbacks_stream(state.owner)),
                "owner": state.owner,
                "enabled": True,
                "generation": state.secret.generation,
            }
        case None:
            raise AssertionError("an accepted command has a state")
        case _:
            assert_never(state)
