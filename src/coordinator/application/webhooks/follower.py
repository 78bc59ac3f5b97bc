"""The follower that finds the messages that are due to receivers.

It stores them in the transaction that moves its position: each message once, whatever crashes. Sending them
is up to the `Deliverer`, which it tells once they are stored. Both run in the process that leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from coordinator.application.followers.runner import FollowerBase
from coordinator.application.ports import Clock, Recorded, Row, Tables
from coordinator.application.webhooks.deliverer import Deliverer
from coordinator.application.webhooks.messages import (
    Notice,
    delivery_id,
    json_text,
    notice_of,
    test_data,
)
from coordinator.application.webhooks.queues import Due, Queues
from coordinator.application.webhooks.schedule import WHOLE_MILLIS
from coordinator.domain.job import JobSubmitted, ends_job
from coordinator.domain.webhook import (
    TEST,
    CallbacksRotated,
    WebhookChanged,
    WebhookCreated,
    WebhookDisabled,
    WebhookEvent,
    WebhookRemoved,
    WebhookReplayed,
    WebhookRotated,
    WebhookTested,
    callbacks_stream,
    is_webhook_event,
)

WEBHOOKS: Final = "webhooks"
LINGER_SECONDS: Final = 2.0
"""Most events concern no receiver: a batch of them only moves the position."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A receiver as of the follower's position."""

    webhook_id: str
    owner: str
    role: str
    events: frozenset[str]
    enabled: bool

    def wants(self, notice: Notice) -> bool:
        """Whether it is told of this: of its owner's jobs or miners, or as an admin of everybody's."""
        if notice.type not in self.events:
            return False
        return self.role == "admin" or (self.owner == notice.owner and self.role == notice.role)


@dataclass(slots=True)
class _Batch:
    """What a batch of events writes."""

    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    callbacks: dict[str, Row | None] = field(default_factory=dict)
    targets: dict[str, Subscription | None] = field(default_factory=dict)


class WebhookFollower(FollowerBase):
    """See the module. Tables: webhook_targets, webhook_callbacks, webhook_deliveries."""

    name = WEBHOOKS
    linger_seconds = LINGER_SECONDS

    def __init__(self, deliverer: Deliverer, clock: Clock) -> None:
        self._deliverer = deliverer
        self._clock = clock
        self._targets: dict[str, Subscription] = {}
        self._callbacks = 0
        """Open jobs that name a URL: without any, the ends of jobs need no query."""
        self._taken_over: Queues | None = None
        self._due: list[Due] = []
        """Of messages that are stored, or will be with the transaction under way."""
        self._urgent = 0
        """The position of the last event that a receiver waits for."""

    # --- leading --------------------------------------------------------------------------------------------
    def take_over(self, tables: Tables) -> None:
        self._targets = {
            row["webhook_id"]: Subscription(
                row["webhook_id"],
                row["owner"],
                row["role"],
                frozenset(row["events"].split()),
                bool(row["enabled"]),
            )
            for row in tables.query("webhooks_targets")
        }
        [counted] = tables.query("webhooks_count_callbacks")
        self._callbacks = counted["jobs"]
        self._due, self._urgent, self.hurried = [], 0, False
        self._taken_over = Queues.load(tables)

    def stand_by(self) -> None:
        self._taken_over = None
        self._deliverer.stand_by()

    async def act(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            event = recorded.event
            if is_webhook_event(event) or (
                (self._targets or self._callbacks) and notice_of(recorded) is not None
            ):
                self._urgent, self.hurried = recorded.position, True

    async def tick(self, stored_to: int) -> None:
        if self._taken_over is not None:
            queues, self._taken_over = self._taken_over, None
            self._deliverer.lead(queues)
        self.hurried = self._urgent > stored_to
        if self._due:
            due, self._due = self._due, []
            self._deliverer.note(due)

    # --- in a thread, in the transaction that moves the position -------------------------------------------
    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        batch, now = _Batch(), self._clock.now()
        ends = [recorded for recorded in events if ends_job(recorded.event)]
        named = self._named_urls(tables, events, ends, batch)
        due: list[Due] = []
        for recorded in events:
            event = recorded.event
            if is_webhook_event(event):
                # Before a replay: it may be about a message of this batch.
                due += _write_messages(tables, batch, now)
                due += self._follow(tables, recorded, event, batch, now)
                continue
            notice = notice_of(recorded)
            if notice is None or event.at < now - WHOLE_MILLIS:
                continue
            for target in self._targets.values():
                if target.wants(notice):
                    _add(
                        batch, recorded, notice, target.webhook_id, target.owner, now, enabled=target.enabled
                    )
            if recorded.key in named and notice.type.startswith("job."):
                client, sealed = named[recorded.key]
                _add(batch, recorded, notice, str(callbacks_stream(client)), client, now, sealed_url=sealed)
        due += _write_messages(tables, batch, now)
        self._write_callbacks(tables, batch)
        _write_targets(tables, batch)
        self._due += due

    def _named_urls(
        self, tables: Tables, events: Iterable[Recorded], ends: Sequence[Recorded], batch: _Batch
    ) -> dict[str, tuple[str, str]]:
        """The URLs that the jobs that end here name: client and sealed URL, by job."""
        named: dict[str, tuple[str, str]] = {}
        for recorded in events:
            if isinstance(recorded.event, JobSubmitted) and recorded.event.callback is not None:
                client, sealed = recorded.event.client, recorded.event.callback
                named[recorded.key] = client, sealed
                batch.callbacks[recorded.key] = {
                    "job_id": recorded.key,
                    "client": client,
                    "sealed_url": sealed,
                }
                self._callbacks += 1
        if not self._callbacks or not ends:
            return named
        for row in tables.query("webhooks_callbacks_of", job_ids=[r.key for r in ends if r.key not in named]):
            named[row["job_id"]] = row["client"], row["sealed_url"]
        for recorded in ends:
            if recorded.key in named:
                batch.callbacks[recorded.key] = None
                self._callbacks -= 1
        return named

    def _follow(
        self, tables: Tables, recorded: Recorded, event: WebhookEvent, batch: _Batch, now: int
    ) -> list[Due]:
        webhook_id = str(event.webhook_id)
        known = self._targets.get(webhook_id)
        match event:
            case WebhookCreated():
                target = Subscription(
                    webhook_id, event.owner, event.role, frozenset(event.events), enabled=True
                )
                self._targets[webhook_id] = batch.targets[webhook_id] = target
            case WebhookChanged() if known is not None:
                target = Subscription(
                    webhook_id, event.owner, known.role, frozenset(event.events), enabled=event.enabled
                )
                self._targets[webhook_id] = batch.targets[webhook_id] = target
            case WebhookDisabled() if known is not None:
                target = Subscription(webhook_id, event.owner, known.role, known.events, enabled=False)
                self._targets[webhook_id] = batch.targets[webhook_id] = target
            case WebhookRemoved():
                self._targets.pop(webhook_id, None)
                batch.targets[webhook_id] = None
            case WebhookTested() if known is not None:
                notice = Notice(TEST, webhook_id, event.owner, known.role, test_data(event))
                _add(batch, recorded, notice, webhook_id, event.owner, now)
            case WebhookReplayed():
                return _replay(tables, event, now)
            case WebhookRotated() | CallbacksRotated() | WebhookChanged() | WebhookDisabled():
                pass
            case WebhookTested():
                pass
        return []

    def _write_callbacks(self, tables: Tables, batch: _Batch) -> None:
        new = [row for row in batch.callbacks.values() if row is not None]
        gone = [job_id for job_id, row in batch.callbacks.items() if row is None]
        if new:
            tables.put("webhook_callbacks", new)
        if gone:
            tables.remove("webhook_callbacks", sorted(gone))


def _add(
    batch: _Batch,
    recorded: Recorded,
    notice: Notice,
    webhook_id: str,
    owner: str,
    now: int,
    *,
    enabled: bool = True,
    sealed_url: str | None = None,
) -> None:
    message = delivery_id(recorded, UUID(webhook_id))
    batch.messages[message] = {
        "delivery_id": message,
        "webhook_id": webhook_id,
        "owner": owner,
        "type": notice.type,
        "subject": notice.subject,
        "position": recorded.position,
        "at": recorded.event.at,
        "data_json": None if notice.data is None else json_text(notice.data),
        "sealed_url": sealed_url,
        # What a disabled webhook missed may be replayed later.
        "state": "PENDING" if enabled else "FAILED",
        "round": 0,
        "tries": 0,
        "due_at": now if enabled else None,
        "tried_at": None,
        "done_at": None if enabled else recorded.event.at,
        "attempts_json": "[]",
    }


def _write_messages(tables: Tables, batch: _Batch, now: int) -> list[Due]:
    """Store the messages that are not there yet; those due. A log that is followed again finds its own."""
    messages, batch.messages = batch.messages, {}
    if not messages:
        return []
    known = {row["delivery_id"] for row in tables.query("webhooks_known", delivery_ids=sorted(messages))}
    new = [row for message, row in messages.items() if message not in known]
    tables.put("webhook_deliveries", new)
    return [Due(row["webhook_id"], row["owner"], now) for row in new if row["due_at"] is not None]


def _replay(tables: Tables, event: WebhookReplayed, now: int) -> list[Due]:
    webhook_id = str(event.webhook_id)
    if event.deliveries is not None:
        changed = tables.execute(
            "webhooks_replay_these", webhook_id=webhook_id, delivery_ids=list(event.deliveries), now=now
        )
    else:
        changed = tables.execute(
            "webhooks_replay_since", webhook_id=webhook_id, since=event.since or 0, now=now
        )
    return [Due(webhook_id, event.owner, now)] if changed else []


def _write_targets(tables: Tables, batch: _Batch) -> None:
    left = [target for target in batch.targets.values() if target is not None]
    if left:
        tables.put(
            "webhook_targets",
            [
                {
                    "webhook_id": target.webhook_id,
                    "owner": target.owner,
                    "role": target.role,
                    "events": " ".join(sorted(target.events)),
                    "enabled": int(target.enabled),
                }
                for target in left
            ],
        )
    gone = sorted(webhook_id for webhook_id, target in batch.targets.items() if target is None)
    if gone:
        tables.remove("webhook_targets", gone)
        tables.remove("webhook_health", gone)
