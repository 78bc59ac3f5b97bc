"""Commands about webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, NamedTuple, cast
from uuid import UUID

from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.commands.ids import Ids
from coordinator.application.ports import Database, Intent, LogUnavailable
from coordinator.crypto.webhooks import CannotUnseal, WebhookKeys, purpose_of_webhook
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Command, Millis
from coordinator.domain.webhook import (
    Callbacks,
    Removed,
    SealedUrl,
    Webhook,
    WebhookChange,
    WebhookCommand,
    WebhookContext,
    WebhookCreate,
    WebhookReplay,
    WebhookRotate,
    WebhookState,
    WebhookTest,
    answer,
    decide,
    webhook_stream,
)
from coordinator.wire.answers import Accepted, Answer
from coordinator.wire.http.urls import UnsafeUrl, check_receiver_url

APPLIED_SECONDS = 5.0
"""The longest wait of an answer for the follower that makes messages due."""


class WebhookDetails(NamedTuple):
    """Facts that the handler computed from the command."""

    url: SealedUrl | None = None
    others: int = 0


class WebhookCommands(Handler[WebhookDetails]):
    """Checks and seals URLs, and shows secrets to the senders of the commands that made them."""

    noun = "webhook"
    extended: ClassVar[tuple[type[Command], ...]] = (WebhookTest, WebhookReplay)

    def __init__(
        self,
        keys: WebhookKeys,
        ids: Ids,
        database: Database,
        reached: Callable[[int, float], Awaitable[bool]],
        *,
        allow_private: bool = False,
    ) -> None:
        """`reached(position, timeout)`: wait until the follower `webhooks` is at a position."""
        self._keys = keys
        self._ids = ids
        self._database = database
        self._reached = reached
        self._allow_private = allow_private

    async def prepare_one(self, intent: Intent) -> Prepared[WebhookDetails]:
        command = cast("WebhookCommand", intent.command)
        if isinstance(command, WebhookCreate):
            key, principal = command.idempotency_key, intent.principal
            stream = (
                self._ids.uuid7()
                if key is None
                else webhook_stream(principal.name, principal.role.value, key)
            )
            url = self._checked(stream, command.url)
            try:
                others = await asyncio.to_thread(self._count, principal.name, principal.role.value)
            except LogUnavailable:
                raise log_unavailable() from None
            return Prepared(intent, self, stream, WebhookDetails(url, others))
        asked = command.url if isinstance(command, WebhookChange) else None
        url_or_none = None if asked is None else self._checked(command.webhook_id, asked)
        return Prepared(intent, self, command.webhook_id, WebhookDetails(url_or_none))

    def _checked(self, webhook_id: UUID, text: str) -> SealedUrl:
        try:
            url = check_receiver_url(text, allow_private=self._allow_private)
        except UnsafeUrl as error:
            raise Refusal(Code.INVALID_PAYLOAD, f"url: {error}") from None
        return SealedUrl(url.authority, self._keys.seal(purpose_of_webhook(webhook_id), text))

    def _count(self, owner: str, role: str) -> int:
        with self._database.transaction() as tables:
            [row] = tables.query("webhooks_count_of", owner=owner, role=role)
            return int(row["webhooks"])

    def decide(self, prepared: Prepared[WebhookDetails], state_of: StateOf, now: Millis) -> Decision:
        found = state_of(prepared.stream)
        # The id may be that of another noun's stream; to the sender that is an unknown webhook.
        state: WebhookState = found if isinstance(found, Webhook | Removed | Callbacks) else None
        command, details = cast("WebhookCommand", prepared.intent.command), prepared.details
        url = details.url
        if url is not None and isinstance(state, Webhook):
            assert isinstance(command, WebhookCreate | WebhookChange)
            compared = state.created.sealed_url if isinstance(command, WebhookCreate) else state.sealed_url
            url = url._replace(is_same=self._is(prepared.stream, compared, command.url))
        return decide(
            state,
            command,
            WebhookContext(now, prepared.intent.principal, prepared.stream, url, details.others),
        )

    def _is(self, webhook_id: UUID, sealed: str, text: str | None) -> bool:
        try:
            return self._keys.unseal(purpose_of_webhook(webhook_id), sealed) == text
        except CannotUnseal:
            return False

    def answer(self, prepared: Prepared[WebhookDetails], state: WebhookState) -> dict[str, Any]:
        """With the secret, if the command made one; its owner may also ask for it later."""
        command = cast("WebhookCommand", prepared.intent.command)
        body = answer(state, command)
        if isinstance(command, WebhookCreate | WebhookRotate) and isinstance(state, Webhook | Callbacks):
            generation = state.secret.generation
            body["secret"] = self._keys.secret(prepared.stream, generation)
            body["public_key"] = self._keys.public_key(prepared.stream, generation)
        return body

    async def extend(self, prepared: Prepared[WebhookDetails], answer: Accepted) -> Answer:
        """The answer waits until the messages are due."""
        await self._reached(answer.position, APPLIED_SECONDS)
        return answer
