"""Name: what a registry entry may be called by, its id or an alias. Each is a stream of its own.

free --claimed--> held by one entry --released--> free …

Entries take and give up names in the decisions that register and revise them, which append to the names'
streams too. So two entries can't get one name, whatever happens at the same time.
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


class OfName(Event):
    """What all events of a name have."""

    name: ServiceId
    service: ServiceId
    """The entry that has, or had, it."""


class NameClaimed(OfName, topic="name.claimed.v1"):
    pass


class NameReleased(OfName, topic="name.released.v1"):
    pass


NameEvent = NameClaimed | NameReleased
"""Every event of a name."""


def is_name_event(event: Event) -> TypeGuard[NameEvent]:
    """Whether this is an event of a name."""
    return isinstance(event, OfName)


@dataclass(frozen=True, slots=True)
class Held:
    """An entry's name."""

    name: str
    service: str


@dataclass(frozen=True, slots=True)
class Free:
    """A name that was an entry's, and may be taken."""

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
    """The events after which `service` has these names and no others; `names`: those, and those it had.

    Raises Refusal where another entry has one.
    """
    decision: Decision = []
    for name in wanted:
        match names.get(name):
            case Held(service=holder):
                if holder != service:
                    raise Refusal(Code.CONFLICT_STATE, f"the name {name} is {holder}'s; choose another")
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
