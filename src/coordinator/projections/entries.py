"""The read model `entries`: one row per entry of a posting."""

from __future__ import annotations

from typing import assert_never

from coordinator.application.ports import Recorded, Row
from coordinator.domain.account import AccountDismissed, AccountDisputed, AccountPosted

TABLE = "entries"
KEY = "entry_id"
EVENTS = (AccountPosted, AccountDisputed, AccountDismissed)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event makes; a dispute changes the row of the job's payment."""
    event = recorded.event
    assert isinstance(event, EVENTS)
    posting = event.posting if isinstance(event, AccountPosted) else f"payment/{event.job_id}"
    return f"{posting}|{event.party}"


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them, with the key, if it makes the row."""
    event = recorded.event
    assert isinstance(event, EVENTS)
    match event:
        case AccountPosted():
            return {
                "entry_id": key_of(recorded),
                "party": event.party,
                "posting": event.posting,
                "kind": event.kind,
                "amount": event.amount,
                "balance": event.balance,
                "job_id": None if event.job_id is None else str(event.job_id),
                "attempt": event.attempt,
                "available_at": event.available_at,
                "disputed": 0,
                "reason": event.reason,
                "units": event.units,
                "unit_type": event.unit_type,
                "posted_at": event.at,
                "posted_position": recorded.position,
                "position": recorded.position,
            }
        case AccountDisputed():
            return {"disputed": 1, "position": recorded.position}
        case AccountDismissed():
            return {"disputed": 0, "position": recorded.position}
        case _:
            assert_never(event)
