"""The read model `api_keys`: the API keys made at run time, without their secrets."""

from __future__ import annotations

from typing import assert_never, get_args

from coordinator.application.ports import Recorded, Row
from coordinator.domain.key import KeyCreated, KeyEvent, KeyRevoked, KeyRotated, is_key_event

TABLE = "api_keys"
KEY = "key_id"
EVENTS = get_args(KeyEvent)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event changes."""
    assert is_key_event(recorded.event)
    return str(recorded.event.key_id)


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them, with the key, if it creates the row."""
    event = recorded.event
    assert is_key_event(event)
    match event:
        case KeyCreated():
            return {
                "key_id": str(event.key_id),
                "name": event.name,
                "role": event.role,
                "label": event.label,
                "signed": int(event.signed),
                "generation": 1,
                "created_at": event.at,
                "created_by": event.by,
                "expires_at": event.expires_at,
                "rotated_at": None,
                "old_until": None,
                "revoked_at": None,
                "revoked_by": None,
                "reason": None,
                "position": recorded.position,
            }
        case KeyRotated():
            return {
                "generation": event.generation,
                "rotated_at": event.at,
                "old_until": event.old_until,
                "position": recorded.position,
            }
        case KeyRevoked():
            return {
                "revoked_at": event.at,
                "revoked_by": event.by,
                "reason": event.reason,
                "position": recorded.position,
            }
        case _:
            assert_never(event)
