"""The read model `miners`: each miner's latest session."""

from __future__ import annotations

from coordinator.application.ports import Recorded, Row
from coordinator.domain.messages import Event
from coordinator.domain.miner import MinerDrained, MinerEvent, MinerRegistered

TABLE = "miners"
KEY = "miner_id"
BORN_WHOLE = False


def key_of(event: Event) -> str | None:
    """Which row this event changes, if any."""
    return event.miner_id if isinstance(event, MinerEvent) else None


def evolve(row: Row | None, recorded: Recorded) -> Row:
    """The row after this event."""
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
    assert row is not None, f"{event.topic} before miner.registered"
    state = "DRAINING" if isinstance(event, MinerDrained) else "OFFLINE"
    return {**row, "state": state, "changed_at": event.at, "position": recorded.position}
