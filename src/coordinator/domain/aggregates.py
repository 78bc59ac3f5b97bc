"""Every aggregate, and which command goes to which: the one table that the command bus is driven by.

Importing this module registers all commands and events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from coordinator.domain import job, job_decisions, key, miner, name, service
from coordinator.domain.facts import Facts
from coordinator.domain.messages import COMMANDS, EVENTS, Command, Event, stream_id

__all__ = [
    "AGGREGATE_OF",
    "COMMANDS",
    "EVENTS",
    "JOB",
    "KEY",
    "MINER",
    "SERVICE",
    "Aggregate",
    "fold",
    "job_stream",
    "key_stream",
]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Three plain functions, and what an accepted command is answered."""

    name: str
    decide: Callable[[Any, Command, Facts], list[Event]]
    evolve: Callable[[Any, Event], Any]
    answer: Callable[[Any, Command], dict[str, Any]]


JOB = Aggregate("job", job_decisions.decide, job.evolve, job.answer)
MINER = Aggregate("miner", miner.decide, miner.evolve, miner.answer)
SERVICE = Aggregate("service", service.decide, service.evolve, service.answer)
KEY = Aggregate("key", key.decide, key.evolve, key.answer)
NAME = Aggregate("name", name.decide, name.evolve, name.answer)
_BY_NAME = {a.name: a for a in (JOB, MINER, SERVICE, KEY, NAME)}

for _registry in (COMMANDS, EVENTS):
    # The modules register theirs in whatever order they are imported; documents are made of these tables.
    _sorted = sorted(_registry.items(), key=lambda entry: entry[0].split(".", 1)[0])
    _registry.clear()
    _registry.update(_sorted)  # type: ignore[arg-type]

AGGREGATE_OF: dict[str, Aggregate] = {
    topic: _BY_NAME[topic.split(".", 1)[0]] for topic in (*COMMANDS, *EVENTS)
}
"""By the topic of a command or an event."""


def fold(events: list[Event], state: Any = None) -> Any:
    """The state after these events of one stream."""
    for event in events:
        state = AGGREGATE_OF[event.topic].evolve(state, event)
    return state


def job_stream(client: str, key: str) -> UUID:
    """The id of the job that `client` submitted under the idempotency key `key`: a repeat meets itself."""
    return stream_id("job", client, key)


def key_stream(admin: str, idempotency_key: str) -> UUID:
    """The id of the API key that `admin` made under this idempotency key."""
    return stream_id("key", admin, idempotency_key)
