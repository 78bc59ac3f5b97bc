"""The read model `miners`: each miner's latest session."""

from __future__ import annotations

from coordinator.application.ports import Recorded, Row
from coordinator.domain.miner import MinerDrained, MinerEvent, MinerRegistered

TABLE = "miners"
KEY = "miner_id"
EVENTS = (MinerEvent,)


def key_of(recorded: Recorded) -> str:
    """Which row this event changes."""
    assert isinstance(recorded.event, MinerEvent)
    return recorded.event.miner_id


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets; all of them, the key included, where it makes the row anew."""
    event = recorded.event
    assert isinstance(event, MinerEvent)
    if isinstance(event, MinerRegistered):
        return {
            "miner_id": event.miner_id,
            "session_id": event.session_id,
            "state": "ONLINE",
            "profile": event.profile,
            "capabilities_json": event.capabilities.model_dump_json(exclude_defaults=True),
            "concurrency": event.concurrency,
            "public_key": event.public_key,
            "registered_at": event.at,
            "changed_at": event.at,
            "position": recorded.position,
        }
    state = "DRAINING" if isinstance(event, MinerDrained) else "OFFLINE"
    return {"state": state, "changed_at": event.at, "position": recorded.position}
