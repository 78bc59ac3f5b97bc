"""The read model `services`: the registry as it is now."""

from __future__ import annotations

from coordinator.application.ports import Recorded, Row
from coordinator.domain.messages import Event
from coordinator.domain.service import ServiceRegistered, ServiceRetired, ServiceRevised

TABLE = "services"
KEY = "service"
BORN_WHOLE = False


def key_of(event: Event) -> str | None:
    """Which row this event changes, if any."""
    match event:
        case ServiceRegistered() | ServiceRevised():
            return event.spec.id
        case ServiceRetired():
            return event.service
    return None


def evolve(row: Row | None, recorded: Recorded) -> Row:
    """The row after this event."""
    event = recorded.event
    if isinstance(event, ServiceRegistered | ServiceRevised):
        return {
            "service": event.spec.id,
            "version": event.version if isinstance(event, ServiceRevised) else 1,
            "retired": 0,
            "category": event.spec.category,
            "spec_json": event.spec.model_dump_json(),
            "position": recorded.position,
        }
    assert row is not None, f"{event.topic} before service.registered"
    return {**row, "retired": 1, "position": recorded.position}
