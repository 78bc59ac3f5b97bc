"""Results that this process committed lately, for readers that come soon."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol
from uuid import UUID

from coordinator.application.ports import Appended, Recorded, StoredPayload
from coordinator.domain.content import is_content_event

KEEP_BYTES: Final = 16 * 2**20
ENTRY_BYTES: Final = 500
"""Of an entry, besides the result itself."""


class Feed(Protocol):
    """The events of this process, in order."""

    @property
    def head(self) -> int:
        """The position of the last one."""

    def on_events(self, callback: Callable[[Sequence[Recorded]], None]) -> Callable[[], None]:
        """Call back with all events from now on."""


class RecentResults:
    """Jobs that are completed, and of which nothing was erased as far as the feed tells, with their results.

    Bounded in bytes; the oldest ones go first. Used on the event loop.
    """

    def __init__(self, feed: Feed, keep_bytes: int = KEEP_BYTES) -> None:
        self._feed = feed
        self._keep_bytes = keep_bytes
        self._kept: OrderedDict[UUID, StoredPayload] = OrderedDict()
        self._bytes = 0
        feed.on_events(self._forget_erased)

    def of(self, job_id: UUID) -> StoredPayload | None:
        """The result of this job, if it is here."""
        return self._kept.get(job_id)

    def note(self, appended: Appended, stored: Iterable[StoredPayload]) -> None:
        """Keep these just committed results. Called before the feed has the events of the commit."""
        if self._feed.head > appended.previous:
            return  # it has read them from the log, and perhaps an erasure after them
        for result in stored:
            if result.kind == "result":
                self._drop(result.job_id)
                self._kept[result.job_id] = result
                self._bytes += len(result.body) + ENTRY_BYTES
        while self._bytes > self._keep_bytes:
            self._drop(next(iter(self._kept)))

    def _forget_erased(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            event = recorded.event
            if is_content_event(event):
                for job_id in event.jobs:
                    self._drop(job_id)

    def _drop(self, job_id: UUID) -> None:
        dropped = self._kept.pop(job_id, None)
        if dropped is not None:
            self._bytes -= len(dropped.body) + ENTRY_BYTES
