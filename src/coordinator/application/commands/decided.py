"""The outcome of one pass over a batch: states, events, payloads and answers, command by command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from coordinator.application.commands.batching import AnyPrepared
from coordinator.application.commands.cache import CachedState
from coordinator.application.ports import Intent, NewEvent, StoredPayload
from coordinator.domain.decision import EVOLVE, MERGES, Decision
from coordinator.domain.messages import Event, Metadata
from coordinator.wire.answers import Refused


class Effect(NamedTuple):
    """The effect of an accepted command: the `event`-th event of the batch, or none after `position`."""

    body: Mapping[str, Any]
    position: int
    event: int | None


class Mergeable(NamedTuple):
    """The `event`-th event of the batch, and the state of its stream before it."""

    event: int
    before: CachedState


@dataclass(slots=True)
class Decided:
    """The outcome of one pass over a batch."""

    states: dict[UUID, CachedState]
    """The state of each stream after the commands so far; `position` is the one before them."""
    events: list[NewEvent] = field(default_factory=list)
    payloads: list[StoredPayload] = field(default_factory=list)
    answers: list[Refused | Effect] = field(default_factory=list)
    last: dict[UUID, int] = field(default_factory=dict)
    """By stream: the index of its last event in `events`."""
    refused_on: set[UUID] = field(default_factory=set)
    """Streams whose states led to a refusal."""
    merged: dict[UUID, Mergeable] = field(default_factory=dict)
    """By stream: its last event that others may be merged into."""

    def state(self, stream: UUID) -> Any:
        return self.states[stream].state

    def take(self, prepared: AnyPrepared, decision: Decision, metadata: Callable[[Intent], Metadata]) -> None:
        """Add a decision and its answer; an exception changes nothing.

        The effect of a command is the last event of its decision; that of a repeat, the last of its stream.
        """
        own = prepared.stream
        state, version, position = self.states[own]
        if not decision:
            body = prepared.handler.answer(prepared, state)
            self._answer(body, position, self.last.get(own))
            return
        event_metadata, place = metadata(prepared.intent), len(self.events)
        events: list[NewEvent] = []
        others: dict[UUID, tuple[CachedState, int]] = {}
        replaced: dict[int, NewEvent] = {}
        mergeable: dict[UUID, Mergeable] = {}
        last = None
        for stream, event in decision:
            evolve = EVOLVE[event.noun]
            if stream is own or stream == own:
                state, version, last = evolve(state, event), version + 1, place
                events.append(NewEvent(own, version, event, event_metadata))
            elif stream in prepared.writes:
                before = others[stream][0] if stream in others else self.states[stream]
                if type(event) in MERGES:
                    earlier = self._mergeable(stream, decision)
                    if earlier is not None:
                        known = self.events[earlier.event]
                        both = MERGES[type(event)](known.event, event)
                        others[stream] = _after(earlier.before, both), earlier.event
                        replaced[earlier.event] = known._replace(event=both)
                        continue
                    mergeable[stream] = Mergeable(place, before)
                after = _after(before, event)
                others[stream] = after, place
                events.append(NewEvent(stream, after.version, event, event_metadata))
            else:
                raise ValueError(f"the decision appends to an undeclared stream: {event.topic}")
            place += 1
        body = prepared.handler.answer(prepared, state)
        for number, one in replaced.items():
            self.events[number] = one
        self.merged.update(mergeable)
        self.events += events
        if last is not None:
            self.states[own], self.last[own] = CachedState(state, version, position), last
        for stream, (entry, number) in others.items():
            self.states[stream], self.last[stream] = entry, number
        if prepared.payload is not None:
            self.payloads.append(prepared.payload)
        self._answer(body, position, place - 1)

    def _mergeable(self, stream: UUID, decision: Decision) -> Mergeable | None:
        """The last event of the stream, if it takes in the only one that the decision has for the stream."""
        earlier = self.merged.get(stream)
        if earlier is None or self.last[stream] != earlier.event:
            return None
        return earlier if [s for s, _ in decision].count(stream) == 1 else None

    def _answer(self, body: Mapping[str, Any] | Refused, position: int, event: int | None) -> None:
        self.answers.append(body if isinstance(body, Refused) else Effect(body, position, event))


def _after(before: CachedState, event: Event) -> CachedState:
    return CachedState(EVOLVE[event.noun](before.state, event), before.version + 1, before.position)
