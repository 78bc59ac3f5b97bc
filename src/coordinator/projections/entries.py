"""The read model `entries`: one row per entry of a posting."""

from __future__ import annotations

from coordinator.application.ports import Recorded, Row
from coordinator.domain.account import AccountPosted

TABLE = "entries"
KEY = "entry_id"
EVENTS = (AccountPosted,)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event makes. A party may have both sides of a settlement."""
    event = recorded.event
    assert isinstance(event, AccountPosted)
    side = "-" if event.amount < 0 else "+"
    return f"{event.posting}|{event.party}|{side}"


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them."""
    event = recorded.event
    assert isinstance(event, AccountPosted)
    of, _, number = event.posting.partition("/")
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
        "reason": event.reason,
        "units": event.units,
        "unit_type": event.unit_type,
        "settlement": int(number) if of == "payments" else None,
        "posted_at": event.at,
        "posted_position": recorded.position,
        "position": recorded.position,
    }
