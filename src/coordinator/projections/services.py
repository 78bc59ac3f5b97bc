"""The read model `services`: the registry as it is now."""

from __future__ import annotations

from coordinator.application.ports import Recorded, Row
from coordinator.domain.service import ServiceRegistered, ServiceRetired, ServiceRevised

TABLE = "services"
KEY = "service"
EVENTS = (ServiceRegistered, ServiceRevised, ServiceRetired)


def key_of(recorded: Recorded) -> str:
    """Which row this event changes."""
    event = recorded.event
    assert isinstance(event, EVENTS)
    return event.service if isinstance(event, ServiceRetired) else event.spec.id


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
