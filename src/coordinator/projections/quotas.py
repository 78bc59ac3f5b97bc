"""The read model `quotas`: the names that have limits of their own."""

from __future__ import annotations

from typing import assert_never

from coordinator.application.ports import Recorded, Row
from coordinator.domain.quota import QuotaWasSet, is_quota_event

TABLE = "quotas"
KEY = "name"
EVENTS = (QuotaWasSet,)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event changes."""
    assert is_quota_event(recorded.event)
    return recorded.event.name


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them."""
    event = recorded.event
    assert is_quota_event(event)
    match event:
        case QuotaWasSet():
            return {
                "name": event.name,
                "limits_json": event.limits.model_dump_json(exclude_none=True),
                "changed_at": event.at,
                "changed_by": event.by,
                "reason": event.reason,
                "position": recorded.position,
            }
        case _:
            assert_never(event)
