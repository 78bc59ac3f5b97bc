"""The read model `services`: the registry as it is now."""

from __future__ import annotations

from coordinator.application.ports import Recorded, Row
from coordinator.domain.service import ServiceRegistered, ServiceRetired, ServiceRevised

TABLE = "services"
KEY = "service"


def key_of(recorded: Recorded) -> str | None:
    """Which row this event changes, if any."""
    match event := recorded.event:
        case ServiceRegistered() | ServiceRevised():
            return event.spec.id
        case ServiceRetired():
            return event.service
    return None


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets; all of them, the key included, where it makes the row anew."""
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
    return {"retired": 1, "position": recorded.position}
