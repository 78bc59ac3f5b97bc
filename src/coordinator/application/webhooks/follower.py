"""The follower that finds the messages that are due to receivers.

It stores them in the transaction that moves its position: each message once, whatever crashes. Sending them
is up to the `Deliverer`, which it tells once they are stored. Both run in the process that leads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args
from uuid import UUID

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import Clock, Recorded, Row, Tables
from coordinator.application.webhooks.deliverer import Deliverer
from coordinator.application.webhooks.messages import (
    ENDS,
    TOLD,
    Notice,
    delivery_id,
    json_text,
    notice_of,
    test_data,
)
from coordinator.application.webhooks.queues import Due, Queues
from coordinator.application.webhooks.schedule import WHOLE_MILLIS
from coordinator.application.webhooks.targets import (
    WebhookTarget,
    WebhookTargets,
    write_targets,
)
from coordinator.domain.job import JobSubmitted
from coordinator.domain.messages import Event
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
_OWN: Final = frozenset[type[Event]](get_args(WebhookEvent))
_ALL: Final = _OWN | TOLD
REST_SECONDS: Final = 0.05
"""Twenty transactions a second at most, however many messages there are."""


@dataclass(slots=True)
class _Batch:
    """What a batch of events writes."""

    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    callbacks: dict[str, Row | None] = field(default_factory=dict)
    targets: dict[str, WebhookTarget | None] = field(default_factory=dict)


class WebhookFollower(FollowerBase):
    """See the module. Tables: webhook_targets, webhook_callbacks, webhook_deliveries."""

    name = WEBHOOKS
    linger_seconds = LINGER_SECONDS
    tick_seconds = 0.2  # the longest that a message waits for the end of a rest

    def __init__(self, deliverer: Deliverer, clock: Clock) -> None:
        self._deliverer = deliverer
        self._clock = clock
        self._targets = WebhookTargets()
        self._callbacks = 0
        """Open jobs that name a URL: without any, the ends of jobs need no query."""
        self._taken_over: Queues | None = None
        self._due: deque[tuple[int, Sequence[Due]]] = deque()
        """Of messages, by the position with which they are stored. A thread appends, the event loop takes."""
        self._urgent = 0
        """The position of the last event that a receiver waits for."""
        self._stored_to = 0
        self._rested_at = 0.0
        """When the next transaction may begin."""

    @property
    def acts_on(self) -> frozenset[type[Event]]:  # type: ignore[override]
        """Without receivers, the events of webhooks alone."""
        return _ALL if self._targets or self._callbacks else _OWN

    @property
    def hurried(self) -> bool:  # type: ignore[override]
        """Whether a receiver waits, and the rest is over."""
        return self._urgent > self._stored_to and self._clock.monotonic() >= self._rested_at

    # --- leading --------------------------------------------------------------------------------------------
    def take_over(self, tables: Tables) -> None:
        self._targets = WebhookTargets.load(tables)
        [counted] = tables.query("webhooks_count_callbacks")
        self._callbacks = counted["jobs"]
        self._due.clear()
        self._urgent = self._stored_to = 0
        self._taken_over = Queues.load(tables)

    def stand_by(self) -> None:
        self._taken_over = None
        self._deliverer.stand_by()

    async def act(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if is_webhook_event(recorded.event) or self._is_awaited(recorded):
                self._urgent = recorded.position

    def _is_awaited(self, recorded: Recorded) -> bool:
        """Whether a receiver may wait for this event, as far as the tables have come."""
        if not self._targets and not self._callbacks:
            return False
        notice = notice_of(recorded)
        if notice is None:
            return False
        return bool(self._callbacks) or any(self._targets.wanting(notice))

    def gather(self) -> None:
        self._rested_at = self._clock.monotonic() + REST_SECONDS

    async def tick(self, stored_to: int) -> None:
        if self._taken_over is not None:
            queues, self._taken_over = self._taken_over, None
            self._deliverer.lead(queues)
        self._stored_to = stored_to
        while self._due and self._due[0][0] <= stored_to:  # not before their commit
            self._deliverer.note(self._due.popleft()[1])

    # --- in a thread, in the transaction that moves the position -------------------------------------------
    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        batch, now = _Batch(), self._clock.now()
        ends = [recorded for recorded in events if type(recorded.event) in ENDS]
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
            for known in self._targets.wanting(notice):
                _add(batch, recorded, notice, known.webhook_id, known.owner, now, enabled=known.enabled)
            if recorded.key in named and notice.type.startswith("job."):
                client, sealed = named[recorded.key]
                _add(batch, recorded, notice, str(callbacks_stream(client)), client, now, sealed_url=sealed)
        due += _write_messages(tables, batch, now)
        self._write_callbacks(tables, batch)
        write_targets(tables, batch.targets)
        if due:
            self._due.append((events[-1].position, due))

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
                changed = WebhookTarget(
                    webhook_id, event.owner, event.role, frozenset(event.events), enabled=True
                )
                self._put(batch, changed)
            case WebhookChanged() if known is not None:
                changed = WebhookTarget(
                    webhook_id, event.owner, known.role, frozenset(event.events), enabled=event.enabled
                )
                self._put(batch, changed)
            case WebhookDisabled() if known is not None:
                changed = WebhookTarget(webhook_id, event.owner, known.role, known.events, enabled=False)
                self._put(batch, changed)
            case WebhookRemoved():
                self._targets.remove(webhook_id)
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

    def _put(self, batch: _Batch, target: WebhookTarget) -> None:
        self._targets.put(target)
        batch.targets[target.webhook_id] = target

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
