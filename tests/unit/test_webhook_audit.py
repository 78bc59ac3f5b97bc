"""What the auditor makes of webhooks: the rows that the projector makes, and no event out of order."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.ports import Recorded
from coordinator.audit.entries import Found
from coordinator.audit.parties import Parties
from coordinator.audit.rows import KEYS, move_other_row
from coordinator.domain.alarm import AlarmRaised, alarm_stream
from coordinator.domain.messages import Event
from coordinator.domain.webhook import (
    JOB_TYPES,
    CallbacksRotated,
    WebhookChanged,
    WebhookCreated,
    WebhookDisabled,
    WebhookRemoved,
    WebhookReplayed,
    WebhookRotated,
    WebhookTested,
    callbacks_stream,
)
from coordinator.projections import webhooks
from coordinator.projections.projector import Fold
from tests.harness.cases import every
from tests.harness.deciding import T0

HOOK = UUID(int=7)
COMMON: dict[str, Any] = {"by": "alice", "webhook_id": HOOK, "owner": "alice"}
WHERE: dict[str, Any] = {"host": "hooks.example.org", "sealed_url": "k1.a.b", "label": "ours"}
CREATED = WebhookCreated(**COMMON, **WHERE, at=T0, role="client", events=JOB_TYPES)
ROTATED = WebhookRotated(**COMMON, at=T0 + 2, generation=2, old_until=T0 + 9)
REMOVED = WebhookRemoved(**COMMON, at=T0 + 6)
LIFE: list[Event] = [
    CREATED,
    WebhookDisabled(**COMMON, at=T0 + 1, reason="gone"),
    ROTATED,
    WebhookChanged(**COMMON, **{**WHERE, "host": "x"}, at=T0 + 3, events=("job.failed",), enabled=True),
    WebhookTested(**COMMON, at=T0 + 4),
    WebhookReplayed(**COMMON, at=T0 + 5, deliveries=None, since=T0),
    REMOVED,
]
CALLED = {**COMMON, "webhook_id": callbacks_stream("alice")}


def follow(*events: Event, stream: UUID = HOOK) -> Parties:
    parties = Parties()
    for position, event in enumerate(events, 1):
        parties.follow(str(stream), event.topic, json.loads(event.model_dump_json()), position)
    return parties


@every("length", range(1, len(LIFE) + 1))
def test_rows(length: int) -> None:
    """After each event of a life the auditor's row is the projector's."""
    rows: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in KEYS}
    fold = Fold()
    for position, event in enumerate(LIFE[:length], 1):
        move_other_row(rows, event.topic, json.loads(event.model_dump_json()), position)
        fold.take([Recorded(position, HOOK, position, event, b"", b"{}", str(HOOK))])
    assert fold.rows[webhooks.TABLE] == rows["webhooks"]
    follow(*LIFE[:length])


@every(
    "events",
    [
        [ROTATED],
        [CREATED, CREATED],
        [CREATED, ROTATED, ROTATED],
        [CREATED, REMOVED, ROTATED],
        [CREATED, REMOVED.model_copy(update={"owner": "bob"})],
        [CREATED.model_copy(update={"webhook_id": UUID(int=8)})],
    ],
)
def test_events_out_of_order(events: list[Event]) -> None:
    """What the decisions would not write is found."""
    with pytest.raises(Found):
        follow(*events)


def test_callbacks_and_alarms() -> None:
    """They are in the streams of their names."""
    rotated = CallbacksRotated(**CALLED, at=T0, generation=2, old_until=T0)
    replayed = WebhookReplayed(**CALLED, at=T0, deliveries=None, since=1)
    stream = callbacks_stream("alice")
    assert ["alice", 2, False] == follow(replayed, rotated, stream=stream).webhooks[str(stream)]
    alarm = AlarmRaised(at=T0, by="root", type="audit.diverged", subject="price", fault_position=3, detail="")
    follow(alarm, stream=alarm_stream("audit.diverged", "price", 3))
    for event, wrong in ((rotated, HOOK), (replayed, HOOK), (alarm, HOOK)):
        with pytest.raises(Found):
            follow(event, stream=wrong)
