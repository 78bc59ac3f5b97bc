"""The read model `miners`: each miner's latest session."""

from __future__ import annotations

from typing import assert_never, get_args

from coordinator.application.ports import Recorded, Row
from coordinator.domain.miner import (
    STATE_NAMES,
    Draining,
    MinerDrained,
    MinerEvent,
    MinerLeft,
    MinerLost,
    MinerRegistered,
    Offline,
    Online,
    is_miner_event,
)

TABLE = "miners"
KEY = "miner_id"
EVENTS = get_args(MinerEvent)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event changes."""
    assert is_miner_event(recorded.event)
    return recorded.event.miner_id


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them, with the key, if it replaces the row."""
    event = recorded.event
    assert is_miner_event(event)
    changed = {"changed_at": event.at, "position": recorded.position}
    match event:
        case MinerRegistered():
            return {
                "miner_id": event.miner_id,
                "session_id": event.session_id,
                "state": STATE_NAMES[Online],
                "profile": event.profile,
                "capabilities_json": event.capabilities.model_dump_json(exclude_defaults=True),
                "concurrency": event.concurrency,
                "public_key": event.public_key,
                "registered_at": event.at,
                **changed,
            }
        case MinerDrained():
            return {"state": STATE_NAMES[Draining], **changed}
        case MinerLeft() | MinerLost():
            return {"state": STATE_NAMES[Offline], **changed}
        case _:
            assert_never(event)


def may_be_gone(row: Row) -> bool:
    """Whether this row may be missing: the expiry removes miners that have been offline for long."""
    return bool(row["state"] == "OFFLINE")
