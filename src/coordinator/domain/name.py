"""Name: the id or an alias of a registry entry. Each name is a stream of its own.

free --claimed--> held by one entry --released--> free …

The decisions that register or revise an entry also append to the streams of its names. So concurrent commands
can't give one name to two entries.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, assert_never
from uuid import UUID

from coordinator.domain.decision import Decision, StreamEvent, evolves
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import CannotFollow, Event, ServiceId, stream_id


class NameEventBase(Event):
    """The fields of every event of a name."""

    name: ServiceId
    service: ServiceId
    """The entry that has, or had, the name."""


class NameClaimed(NameEventBase, topic="name.claimed.v1"):
    pass


class NameReleased(NameEventBase, topic="name.released.v1"):
    pass


NameEvent = NameClaimed | NameReleased
"""Every event of a name."""


def is_name_event(event: Event) -> TypeGuard[NameEvent]:
    """Whether this is an event of a name."""
    return isinstance(event, NameEventBase)


@dataclass(frozen=True, slots=True)
class Held:
    """A name that an entry has."""

    name: str
    service: str


@dataclass(frozen=True, slots=True)
class Free:
    """A name that an entry gave up; another entry may take it."""

    name: str


NameState = Held | Free | None


@functools.lru_cache(4096)
def name_stream(name: str) -> UUID:
    """The id of this name's stream."""
    return stream_id("name", name)


@evolves("name")
def evolve(state: NameState, event: NameEvent) -> NameState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    match event:
        case NameClaimed():
            if not isinstance(state, Held):
                return Held(event.name, event.service)
        case NameReleased():
            if isinstance(state, Held):
                return Free(event.name)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


def changes(
    service: str, wanted: Sequence[str], names: Mapping[str, NameState], common: Mapping[str, Any]
) -> Decision:
    """The events after which `service` has these names and no others; `names`: the new and the former.

    Raises Refusal if another entry has one of them.
    """
    decision: Decision = []
    for name in wanted:
        match names.get(name):
            case Held(service=holder):
                if holder != service:
                    raise Refusal(Code.CONFLICT_STATE, f"the name {name} belongs to {holder}; choose another")
            case Free() | None:
                claimed = NameClaimed(**common, name=name, service=service)
                decision.append(StreamEvent(name_stream(name), claimed))
            case unknown:
                assert_never(unknown)
    for name, state in names.items():
        if name not in wanted and isinstance(state, Held) and state.service == service:
            released = NameReleased(**common, name=name, service=service)
            decision.append(StreamEvent(name_stream(name), released))
    return decision
