"""The tables of the follower of webhooks: its receivers, and the URLs that open jobs name.

The messages and their deliveries are in no event; a rebuild leaves their tables as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, assert_never, get_args

from coordinator.application.ports import Recorded, Tables
from coordinator.domain.job import FinalEvent, JobSubmitted, ends_job
from coordinator.domain.messages import Event
from coordinator.domain.webhook import (
    CallbacksRotated,
    WebhookChanged,
    WebhookCreated,
    WebhookDisabled,
    WebhookEvent,
    WebhookRemoved,
    WebhookReplayed,
    WebhookRotated,
    WebhookTested,
    is_webhook_event,
)
from coordinator.projections.derived.port import StoredRows, compare

TARGETS, CALLBACKS = "webhook_targets", "webhook_callbacks"


class WebhookTables:
    """See the module."""

    follower: ClassVar[str] = "webhooks"
    events: ClassVar[tuple[type[Event], ...]] = (
        *get_args(WebhookEvent),
        JobSubmitted,
        *get_args(FinalEvent),
    )
    statements: ClassVar[Mapping[str, str]] = {
        TARGETS: "derived_webhook_targets",
        CALLBACKS: "derived_webhook_callbacks",
    }

    def __init__(self) -> None:
        self._targets: dict[str, dict[str, Any]] = {}
        self._callbacks: dict[str, dict[str, Any]] = {}

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        if isinstance(event, JobSubmitted):
            if event.callback is not None:
                self._callbacks[recorded.key] = {
                    "job_id": recorded.key,
                    "client": event.client,
                    "sealed_url": event.callback,
                }
        elif ends_job(event):
            self._callbacks.pop(recorded.key, None)
        elif is_webhook_event(event):
            self._take_webhook(event)

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        return str(row["webhook_id" if table == TARGETS else "job_id"])

    def differences(self, stored: StoredRows) -> Iterator[str]:
        yield from compare(TARGETS, self._targets, stored[TARGETS])
        yield from compare(CALLBACKS, self._callbacks, stored[CALLBACKS])

    def write(self, tables: Tables) -> None:
        for table, rows in ((TARGETS, self._targets), (CALLBACKS, self._callbacks)):
            tables.execute(f"derived_clear_{table}")
            tables.put(table, list(rows.values()))

    def _take_webhook(self, event: WebhookEvent) -> None:
        webhook_id = str(event.webhook_id)
        match event:
            case WebhookCreated():
                self._targets[webhook_id] = {
                    "webhook_id": webhook_id,
                    "owner": event.owner,
                    "role": event.role,
                    "events": _written(event.events),
                    "enabled": 1,
                }
            case WebhookChanged():
                self._change(webhook_id, events=_written(event.events), enabled=int(event.enabled))
            case WebhookDisabled():
                self._change(webhook_id, enabled=0)
            case WebhookRemoved():
                self._targets.pop(webhook_id, None)
            case WebhookTested() | WebhookReplayed() | WebhookRotated() | CallbacksRotated():
                pass  # about messages and secrets
            case _:
                assert_never(event)

    def _change(self, webhook_id: str, **columns: Any) -> None:
        if webhook_id in self._targets:
            self._targets[webhook_id] |= columns


def _written(events: Any) -> str:
    return " ".join(sorted(events))
