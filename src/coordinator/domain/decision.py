"""Decisions: events with the streams that they are appended to, and the state that follows from events.

    decide(state, command, context) -> Decision, or it raises a Refusal
    evolve(state, event) -> state

The version of each stream that a decision appends to guards that stream. Other facts come with the context
and may be stale; the context's docstrings say why stale facts do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from coordinator.domain.messages import SYSTEM, Event, Millis, Principal


class StreamEvent(NamedTuple):
    """An event and its stream."""

    stream: UUID
    event: Event


Decision = list[StreamEvent]
"""Events in the order of their append, which takes all or none. Empty for a repeat of an applied command."""


def on(stream: UUID, events: Iterable[Event]) -> Decision:
    """A decision with events of one stream."""
    return [StreamEvent(stream, event) for event in events]


class Context(NamedTuple):
    """The facts for a decision that needs no others besides the state and the command."""

    now: Millis
    principal: Principal = SYSTEM


# --- evolve ------------------------------------------------------------------------------------------------
Evolve = Callable[[Any, Any], Any]
E = TypeVar("E", bound=Evolve)

EVOLVE: dict[str, Evolve] = {}
"""The `evolve` of each noun; filled like the tables of topics."""


def evolves(noun: str) -> Callable[[E], E]:
    """Register a noun's `evolve`. Raises ValueError if the noun has one already."""

    def register(function: E) -> E:
        if noun in EVOLVE:
            raise ValueError(f"the noun {noun!r} has an evolve already")
        EVOLVE[noun] = function
        return function

    return register


# --- merge -------------------------------------------------------------------------------------------------
Merge = Callable[[Any, Any], Event]
M = TypeVar("M", bound=Merge)

MERGES: dict[type[Event], Merge] = {}
"""By event: how two of them become one, if they are neighbours in a stream and committed together."""


def merges(event: type[Event]) -> Callable[[M], M]:
    """Register how two of these events become one. The second one has the state after both."""

    def register(function: M) -> M:
        MERGES[event] = function
        return function

    return register


def fold(events: Iterable[Event], state: Any = None) -> Any:
    """The state of a stream after these events."""
    for event in events:
        state = EVOLVE[event.noun](state, event)
    return state
