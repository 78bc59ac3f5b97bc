"""The log, watched: each call tells the health whether it worked, and no append follows a log that went back.

A log "goes back" when an older copy of its database takes its place (a restored backup) while this process
runs. States, positions and answers in memory then belong to a future that the log does not have: an append
after them would leave gaps. So nothing is appended any more until this process has been started again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar
from uuid import UUID

import structlog

from coordinator.application.health import Health, reason_of
from coordinator.application.ports import (
    Appended,
    EventLog,
    LogError,
    LogUnavailable,
    NewEvent,
    Page,
    PayloadKind,
    Recorded,
    StoredPayload,
    VersionConflict,
)

T = TypeVar("T")
WENT_BACK = "the log was replaced by an older copy while this process ran; start this process again"

_logger = structlog.get_logger("log")


class WatchedLog:
    """An `EventLog` over another one."""

    def __init__(self, inner: EventLog, health: Health) -> None:
        self._inner = inner
        self._health = health
        self._appends = health.part("log_append")
        self._reads = health.part("log_read")
        self._known_head = 0
        """A position that the log has certainly reached."""
        self._check_head = False
        """An operation failed since: the database behind the log may be another one now."""

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        if self._check_head or self._health.restart is not None:
            self.head()
            if self._health.restart is not None:
                raise LogUnavailable(self._health.restart)
        known = self._known_head  # another thread may read the new head before this append returns
        try:
            appended = self._inner.append(events, payloads)
        except VersionConflict:
            self._appends.works()
            raise
        except LogError as error:
            self._check_head = True
            self._appends.fails(reason_of(error), detail=str(error))
            raise
        self._appends.works()
        if appended.previous < known:
            self._went_back(appended.previous)
        self._known_head = max(self._known_head, appended.events[-1].position)
        return appended

    def head(self) -> int:
        known = self._known_head  # before the query, which must not be older than it
        head = self._reading(self._inner.head)
        if head < known:
            self._went_back(head)
        else:
            self._check_head = False
            self._known_head = max(self._known_head, head)
        return head

    def _went_back(self, head: int) -> None:
        if self._health.restart is None:
            _logger.error("the log went back", was=self._known_head, now=head)
        self._health.restart = WENT_BACK

    def load(self, streams: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        return self._reading(lambda: self._inner.load(streams))

    def versions(self, streams: Collection[UUID]) -> dict[UUID, int]:
        return self._reading(lambda: self._inner.versions(streams))

    def read(self, after: int, limit: int) -> list[Recorded]:
        return self._reading(lambda: self._inner.read(after, limit))

    def read_of(self, client: str, after: int, until: int, limit: int) -> Page:
        return self._reading(lambda: self._inner.read_of(client, after, until, limit))

    def wait(self, after: int, timeout: float) -> bool:
        return self._inner.wait(after, timeout)  # says nothing about the database: it may only time out

    def payloads(self, kind: PayloadKind, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        return self._reading(lambda: self._inner.payloads(kind, job_ids))

    def erase(self, job_ids: Collection[UUID], kind: PayloadKind | None = None) -> None:
        self._inner.erase(job_ids, kind)

    def scrub(self) -> bool:
        return self._inner.scrub()

    def close(self) -> None:
        self._inner.close()

    def _reading(self, read: Callable[[], T]) -> T:
        try:
            result = read()
        except LogError as error:
            self._check_head = True
            self._reads.fails(reason_of(error), detail=str(error))
            raise
        self._reads.works()
        return result
