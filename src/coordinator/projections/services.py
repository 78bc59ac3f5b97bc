"""The read model `services`: the registry as it is now."""

from __future__ import annotations

from typing import assert_never, get_args

from coordinator.application.ports import Recorded, Row
from coordinator.domain.service import (
    ServiceEvent,
    ServiceRegistered,
    ServiceRetired,
    ServiceRevised,
    is_service_event,
)

TABLE = "services"
KEY = "service"
EVENTS = get_args(ServiceEvent)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event changes."""
    event = recorded.event
    assert is_service_event(event)
    match event:
        case ServiceRegistered() | ServiceRevised():
            return event.spec.id
        case ServiceRetired():
            return event.service
        case _:
            assert_never(event)


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them, with the key, if it replaces the row."""
    event = recorded.event
    assert is_service_event(event)
    match event:
        case ServiceRegistered() | ServiceRevised():
            return {
                "service": event.spec.id,
                "version": event.version if isinstance(event, ServiceRevised) else 1,
                "retired": 0,
                "category": event.spec.category,
                "spec_json": event.spec.model_dump_json(),
                "position": recorded.position,
            }
        case ServiceRetired():
            return {"retired": 1, "position": recorded.position}
        case _:
            assert_never(event)
