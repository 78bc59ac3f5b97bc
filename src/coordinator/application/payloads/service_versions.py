"""Registry entries as they were when a job was submitted."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol
from uuid import UUID

from coordinator.application.ports import EventLog
from coordinator.domain.decision import fold
from coordinator.domain.service import RegisteredService, service_stream

MAX_KEPT: Final = 256


class States(Protocol):
    """Reads states of aggregates; see `CommandBus.states`."""

    def __call__(self, streams: Sequence[UUID], *, fresh: bool = False) -> Awaitable[dict[UUID, Any]]: ...


class ServiceVersions:
    """Entries by version. Former ones are read from the log once, and kept. Used on the event loop only."""

    def __init__(self, event_log: EventLog, states: States) -> None:
        self._log = event_log
        self._states = states
        self._kept: OrderedDict[tuple[str, int], RegisteredService] = OrderedDict()

    async def of(self, service: str, version: int) -> RegisteredService | None:
        """The entry in this version, which never changes; None if it never was. Raises LogUnavailable."""
        kept = self._kept.get((service, version))
        if kept is None:
            kept = await self._find(service_stream(service), version)
            if kept is not None:
                self._kept[service, version] = kept
                if len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
        return kept

    async def _find(self, stream: UUID, version: int) -> RegisteredService | None:
        current = (await self._states((stream,)))[stream]
        if isinstance(current, RegisteredService) and current.version == version:
            return current
        return await asyncio.to_thread(self._read, stream, version)

    def _read(self, stream: UUID, version: int) -> RegisteredService | None:
        state: Any = None
        for recorded in self._log.load([stream]).get(stream, ()):
            state = fold([recorded.event], state)
            if isinstance(state, RegisteredService) and state.version == version:
                return state
        return None
