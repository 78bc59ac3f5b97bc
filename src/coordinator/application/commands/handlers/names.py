"""Names of registry entries, resolved in memory, so that a submit by id or alias reads nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, assert_never
from uuid import UUID

from coordinator.application.ports import Recorded
from coordinator.domain.name import Held, NameClaimed, NameReleased, is_name_event, name_stream
from coordinator.domain.service import RegisteredService, service_stream


class Names:
    """Resolves ids and aliases. `state` gives an aggregate's state, fresh from the log.

    Stale for a moment after another process moved an alias: a job submitted then belongs to the former entry
    of the alias, and its events name that entry.
    """

    def __init__(self, state: Callable[[UUID], Awaitable[Any]]) -> None:
        self._state = state
        self._known: dict[str, str] = {}
        self._generation = 0
        """Counts changes, to detect one during a lookup."""

    def note(self, events: Sequence[Recorded]) -> None:
        """Take in committed events, of this process or another."""
        for recorded in events:
            event = recorded.event
            if not is_name_event(event):
                continue
            self._generation += 1
            match event:
                case NameClaimed():
                    self._known[event.name] = event.service
                case NameReleased():
                    self._known.pop(event.name, None)
                case _:
                    assert_never(event)

    async def canonical(self, name: str) -> str:
        """The id of the entry with this id or alias; the name itself if no entry has it.

        Raises LogUnavailable.
        """
        found = self._known.get(name)
        if found is not None:
            return found
        generation = self._generation
        state = await self._state(name_stream(name))
        if isinstance(state, Held):
            found = state.service
        elif isinstance(await self._state(service_stream(name)), RegisteredService):
            found = name  # an entry from before names had streams
        if found is not None and generation == self._generation:
            self._known[name] = found
        return found or name

    async def entry(self, service: str) -> RegisteredService | None:
        """An entry by its id, with its current names. Raises LogUnavailable."""
        state = await self._state(service_stream(service))
        return state if isinstance(state, RegisteredService) else None
