"""What a decision is made of, and what it is.

    decide(state, command, context) -> Decision, or it raises a Refusal
    evolve(state, event) -> state

Every stream that a decision appends to is guarded by its version. What it only looks at is handed in with the
context, may be stale, and the context's docstrings say why that does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from coordinator.domain.messages import SYSTEM, Event, Millis, Principal


class StreamEvent(NamedTuple):
    """An event, and the stream that it belongs to."""

    stream: UUID
    event: Event


Decision = list[StreamEvent]
"""Events in the order in which they are appended, all or none; none for a repeat of an applied command."""


def on(stream: UUID, events: Iterable[Event]) -> Decision:
    """A decision with events of one stream."""
    return [StreamEvent(stream, event) for event in events]


class Context(NamedTuple):
    """What a decision is told besides the state and the command, where it needs nothing else."""

    now: Millis
    principal: Principal = SYSTEM


# --- evolve ------------------------------------------------------------------------------------------------
Evolve = Callable[[Any, Any], Any]
E = TypeVar("E", bound=Evolve)

EVOLVE: dict[str, Evolve] = {}
"""By noun: how the state of such a stream follows from its events. Filled like the tables of topics."""


def evolves(noun: str) -> Callable[[E], E]:
    """Register a noun's `evolve`. Raises ValueError where the noun has one already."""

    def register(function: E) -> E:
        if noun in EVOLVE:
            raise ValueError(f"the noun {noun!r} has an evolve already")
        EVOLVE[noun] = function
        return function

    return register


def fold(events: Iterable[Event], state: Any = None) -> Any:
    """The state of a stream after these events of it."""
    for event in events:
        state = EVOLVE[event.noun](state, event)
    return state
