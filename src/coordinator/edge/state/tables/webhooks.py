"""Reads of webhooks and of the log of deliveries, in typed rows. For the HTTP edge and the dashboard."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from coordinator.application.ports import Database
from coordinator.edge.models.webhooks import DeliveryState, DeliveryView, WebhookView
from coordinator.edge.state.threads import in_thread

LAST_POSITION = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRow:
    """A webhook, and how its receiver fared. Moments are Unix milliseconds."""

    webhook_id: str
    owner: str
    role: str
    host: str
    sealed_url: str
    events: str
    label: str
    enabled: int
    disabled_reason: str
    generation: int
    old_until: int | None
    created_at: int
    changed_at: int
    removed_at: int | None
    position: int
    failures: int | None
    succeeded_at: int | None
    failed_at: int | None
    last_error: str | None

    def view(self, url: str | None) -> WebhookView:
        """The webhook as the API shows it; `url` in plain text, where the reader may see it."""
        return WebhookView.model_validate(
            {
                **asdict(self),
                "url": url,
                "events": self.events.split(),
                "disabled_reason": self.disabled_reason or None,
                "failures": self.failures or 0,
                "last_error": self.last_error or None,
            }
        )


class DeliveryAttempt(NamedTuple):
    """One try of a message. `at`: Unix milliseconds; `status` None: no answer, for the reason in `error`."""

    at: int
    status: int | None
    ms: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """A message to a receiver. Moments are Unix milliseconds."""

    delivery_id: str
    webhook_id: str
    owner: str
    type: str
    subject: str
    position: int
    at: int
    state: DeliveryState
    round: int
    tries: int
    due_at: int | None
    done_at: int | None
    attempts_json: str

    @property
    def attempts(self) -> list[DeliveryAttempt]:
        """The newest tries, the oldest first."""
        return [DeliveryAttempt(*one) for one in json.loads(self.attempts_json)]

    def view(self) -> DeliveryView:
        """The message as the API shows it."""
        attempts = [{**one._asdict(), "error": one.error or None} for one in self.attempts]
        return DeliveryView.model_validate({**asdict(self), "attempts": attempts})


class DeliveryKey(NamedTuple):
    """A message's place in the log of a webhook's deliveries."""

    position: int
    delivery_id: str


NEWEST = DeliveryKey(LAST_POSITION, "")
"""Before the first page."""


class WebhookReads:
    """Each read is a transaction of its own in a thread, and raises LogUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def webhooks(
        self, after: tuple[str, str], page_size: int, owner: tuple[str, str] | None = None
    ) -> list[WebhookRow]:
        """A page of webhooks by owner and id, after `after`. `owner`: a name and its role; None for all."""
        page = {"after_owner": after[0], "after_id": after[1], "page_size": page_size}
        if owner is None:
            rows = await self._read("webhooks_list", **page)
        else:
            rows = await self._read("webhooks_list_of_owner", owner=owner[0], role=owner[1], **page)
        return [WebhookRow(**row) for row in rows]

    async def webhook(self, webhook_id: str) -> WebhookRow | None:
        """One webhook; None if there is none, or it was removed."""
        rows = await self._read("webhooks_show", webhook_id=webhook_id)
        return WebhookRow(**rows[0]) if rows else None

    async def deliveries(
        self,
        webhook_id: str,
        before: DeliveryKey = NEWEST,
        page_size: int = 50,
        *,
        state: str = "",
        subject: str = "",
    ) -> list[DeliveryRow]:
        """A page of a webhook's messages, the newest first, after the one at `before`.

        `webhook_id` may be that of a client's callbacks. Empty texts for all states and subjects.
        """
        rows = await self._read(
            "webhooks_deliveries",
            webhook_id=webhook_id,
            before_position=before.position,
            before_id=before.delivery_id,
            state=state,
            subject=subject,
            page_size=page_size,
        )
        return [DeliveryRow(**row) for row in rows]

    async def delivery(self, delivery_id: str) -> DeliveryRow | None:
        """One message."""
        rows = await self._read("webhooks_delivery", delivery_id=delivery_id)
        return DeliveryRow(**rows[0]) if rows else None

    async def _read(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        def query() -> list[dict[str, Any]]:
            with self._database.transaction() as tables:
                return tables.query(statement, **params)

        return await in_thread(query)
