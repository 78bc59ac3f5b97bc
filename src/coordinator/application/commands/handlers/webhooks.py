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
from coordinator.domain.messages import Command, Millis, Principal
from coordinator.domain.webhook import (
    Callbacks,
    Removed,
    SealedUrl,
    Webhook,
    WebhookChange,
    WebhookCommand,
    WebhookContext,
    WebhookCreate,
    WebhookRemove,
    WebhookReplay,
    WebhookRotate,
    WebhookState,
    WebhookTest,
    answer,
    decide,
    webhook_stream,
)
from coordinator.wire.answers import Accepted, Answer
from coordinator.wire.urls import UnsafeUrl, check_receiver_url

LATELY_MILLIS = 60_000
"""Read models that are later than this make the limit of webhooks inexact."""
APPLIED_SECONDS = 5.0
"""The longest wait of an answer for the follower that makes messages due."""


class WebhookDetails(NamedTuple):
    """Facts that the handler computed from the command."""

    url: SealedUrl | None = None
    known: frozenset[UUID] = frozenset()
    """The webhooks that the owner has, as far as the read models have come."""


class _Created(NamedTuple):
    """A webhook that a command has just created."""

    at: Millis
    by: Prepared[WebhookDetails]


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
        self._created: dict[tuple[str, str], dict[UUID, _Created]] = {}
        """By owner and role: the webhooks that this process created lately. The read models may not have them
        yet, and many creations at once would all find the same few."""

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
                known = await asyncio.to_thread(self._known, principal.name, principal.role.value)
            except LogUnavailable:
                raise log_unavailable() from None
            return Prepared(intent, self, stream, WebhookDetails(url, known))
        asked = command.url if isinstance(command, WebhookChange) else None
        url_or_none = None if asked is None else self._checked(command.webhook_id, asked)
        return Prepared(intent, self, command.webhook_id, WebhookDetails(url_or_none))

    def _checked(self, webhook_id: UUID, text: str) -> SealedUrl:
        try:
            url = check_receiver_url(text, allow_private=self._allow_private)
        except UnsafeUrl as error:
            raise Refusal(Code.INVALID_PAYLOAD, f"url: {error}") from None
        return SealedUrl(url.authority, self._keys.seal(purpose_of_webhook(webhook_id), text))

    def _known(self, owner: str, role: str) -> frozenset[UUID]:
        with self._database.transaction() as tables:
            return frozenset(
                UUID(row["webhook_id"]) for row in tables.query("webhooks_ids_of", owner=owner, role=role)
            )

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
        principal = prepared.intent.principal
        others = 0
        if isinstance(command, WebhookCreate):
            others = self._others(_owner(principal), prepared, now)
        decision = decide(state, command, WebhookContext(now, principal, prepared.stream, url, others))
        if isinstance(command, WebhookCreate) and decision:
            self._created.setdefault(_owner(principal), {})[prepared.stream] = _Created(now, prepared)
        if isinstance(command, WebhookRemove) and isinstance(state, Webhook):
            owner = state.created.owner, state.created.role
            self._created.get(owner, {}).pop(prepared.stream, None)
        return decision

    def refused(self, prepared: Prepared[WebhookDetails]) -> None:
        """It was not created after all."""
        created = self._created.get(_owner(prepared.intent.principal), {})
        noted = created.get(prepared.stream)
        if noted is not None and noted.by is prepared:  # and not by an earlier command of this key
            del created[prepared.stream]

    def _others(self, owner: tuple[str, str], prepared: Prepared[WebhookDetails], now: Millis) -> int:
        created = {
            webhook_id: noted
            for webhook_id, noted in self._created.pop(owner, {}).items()
            if abs(now - noted.at) < LATELY_MILLIS
        }
        if created:
            self._created[owner] = created
        return len((prepared.details.known | created.keys()) - {prepared.stream})

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


def _owner(principal: Principal) -> tuple[str, str]:
    return principal.name, principal.role.value
