"""The follower that brings API keys from the log into this process's keyring.

Every process follows the log for itself, independently of leadership, so that a revoked key ends everywhere
as soon as its event arrives. Nothing is stored: at the start the read model lists the keys, and their streams
give their states.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Protocol
from uuid import UUID

import structlog

from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.keys.keyring import Keyring
from coordinator.application.ports import Database, Recorded
from coordinator.domain import key
from coordinator.domain.decision import fold
from coordinator.domain.key import Active, KeyEvent, KeyState, is_key_event

PROJECTOR = "projector"
BATCH = 1000

log = structlog.get_logger("keys")


class Feed(Protocol):
    """The part of an `EventFeed` that is needed; a feed may leave out events of other nouns."""

    @property
    def head(self) -> int: ...

    def on_events(self, callback: Callable[[Sequence[Recorded]], None]) -> Callable[[], None]: ...


class KeyLog(Protocol):
    """The part of an `EventLog` that is needed; it may leave out events of other nouns."""

    def read(self, after: int, limit: int) -> list[Recorded]: ...

    def load(self, streams: Collection[UUID]) -> dict[UUID, list[Recorded]]: ...


class KeyFollower:
    """Keeps a keyring equal to the log. `start` and `stop` may each be called twice."""

    name = "keyring"

    def __init__(
        self,
        feed: Feed,
        event_log: KeyLog,
        database: Database,
        keyring: Keyring,
        watermarks: LocalWatermarks,
    ) -> None:
        self._feed = feed
        self._log = event_log
        self._database = database
        self._keyring = keyring
        self._watermarks = watermarks
        self._keys: dict[UUID, tuple[int, KeyState]] = {}
        """Version and state of every key, apart from those revoked before the start."""
        self._end_following: Callable[[], None] | None = None

    async def start(self) -> None:
        """Read the keys; needs a started feed. Returns once the keyring is up to date.

        Raises LogUnavailable.
        """
        if self._end_following is not None:
            return
        position, streams = await asyncio.to_thread(self._read)
        for stream, events in streams.items():
            self._note(stream, events[-1].version, fold([e.event for e in events]))
        # The read model may be behind; a key revoked since then must not work even for a moment.
        while position < self._feed.head:
            head = self._feed.head
            events = await asyncio.to_thread(self._log.read, position, BATCH)
            position = self._take_in(events) if events else head
        # No wait since the head was compared, so no event is missed; one that comes twice changes nothing.
        self._end_following = self._feed.on_events(self._follow)
        self._watermarks.leads(self.name, here=True)
        self._watermarks.moved(self.name, position)

    async def stop(self) -> None:
        if self._end_following is not None:
            self._end_following()
            self._end_following = None

    async def reached(self, position: int, timeout: float) -> bool:
        """Wait until this process's keyring has reached `position` of the log."""
        return await self._watermarks.reached(self.name, position, timeout)

    def _follow(self, events: Sequence[Recorded]) -> None:
        if any(is_key_event(recorded.event) for recorded in events):
            self._watermarks.moved(self.name, self._take_in(events))

    def _read(self) -> tuple[int, dict[UUID, list[Recorded]]]:
        with self._database.transaction() as tables:
            position = tables.position(PROJECTOR)
            ids = [UUID(row["key_id"]) for row in tables.query("keys_not_revoked")]
        return position, self._log.load(ids) if ids else {}

    def _take_in(self, events: Sequence[Recorded]) -> int:
        for recorded in events:
            if is_key_event(recorded.event):
                self._evolve(recorded, recorded.event)
        return events[-1].position

    def _evolve(self, recorded: Recorded, event: KeyEvent) -> None:
        version, state = self._keys.get(recorded.stream, (0, None))
        if recorded.version <= version:
            return  # read at the start
        try:
            self._note(recorded.stream, recorded.version, key.evolve(state, event))
        except ValueError:
            # A key with an invalid history must not give access.
            log.exception("invalid event of a key; the key is out of use", key_id=str(event.key_id))
            self._keys[recorded.stream] = (recorded.version, None)
            self._keyring.remove(event.name, event.key_id)

    def _note(self, stream: UUID, version: int, state: KeyState) -> None:
        self._keys[stream] = (version, state)
        if isinstance(state, Active):
            self._keyring.put(state)
        elif state is not None:
            self._keyring.remove(state.created.name, state.created.key_id)
