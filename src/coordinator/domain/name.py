"""Name: what a registry entry may be called by, its id or an alias. Each is a stream of its own.

free --claimed--> held by one entry --released--> free …

Entries take and give up names in the decisions that register and revise them, which append to the names'
streams too. So two entries can't get one name, whatever happens at the same time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.facts import Facts
from coordinator.domain.messages import Command, Event, ServiceId, stream_id


class NameEvent(Event):
    """Something happened to a name; it is in the name's own stream."""

    name: ServiceId
    service: ServiceId
    """The entry that has, or had, it."""


class NameClaimed(NameEvent, topic="name.claimed.v1"):
    pass


class NameReleased(NameEvent, topic="name.released.v1"):
    pass


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


def evolve(state: NameState, event: Event) -> NameState:
    """The state after one event."""
    match state, event:
        case None | Free(), NameClaimed():
            return Held(event.name, event.service)
        case Held(), NameReleased():
            return Free(event.name)
    raise ValueError(f"{event.topic} can't follow {type(state).__name__}")


def decide(state: NameState, command: Command, facts: Facts) -> list[Event]:
    """Names know no commands of their own."""
    raise Refusal(Code.UNKNOWN_COMMAND, f"a name does not know {command.topic}")


def answer(state: NameState, command: Command) -> dict[str, Any]:
    return {}


def changes(
    service: str, wanted: Sequence[str], names: Mapping[str, NameState], common: Mapping[str, Any]
) -> list[NameEvent]:
    """The events after which `service` has these names and no others; `names`: those, and those it had.

    Raises Refusal where another entry has one.
    """
    events: list[NameEvent] = []
    for name in wanted:
        match names.get(name):
            case Held(service=holder):
                if holder != service:
                    raise Refusal(Code.CONFLICT_STATE, f"the name {name} is {holder}'s; choose another")
            case _:
                events.append(NameClaimed(**common, name=name, service=service))
    for name, state in names.items():
        if name not in wanted and isinstance(state, Held) and state.service == service:
            events.append(NameReleased(**common, name=name, service=service))
    return events
