"""The read model `accounts`: one row per party, with the totals that its last event tells."""

from __future__ import annotations

from coordinator.application.ports import Recorded, Row
from coordinator.domain.account import is_account_event
from coordinator.domain.account.events import ACCOUNT_EVENTS

TABLE = "accounts"
KEY = "party"
EVENTS = ACCOUNT_EVENTS


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event changes."""
    assert is_account_event(recorded.event)
    return recorded.event.party


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them."""
    event = recorded.event
    assert is_account_event(event)
    return {
        "party": event.party,
        "balance": event.balance,
        "held": event.held,
        "disputed": event.disputed,
        "changed_at": event.at,
        "position": recorded.position,
    }
