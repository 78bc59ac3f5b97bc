"""The event log in memory, for unit tests: gone with the process, otherwise like the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from threading import RLock
from uuid import UUID

from eventsourcing.persistence import IntegrityError, StoredEvent
from eventsourcing.popo import POPOApplicationRecorder

from coordinator.application.ports import (
    Appended,
    NewEvent,
    Page,
    PayloadKind,
    Recorded,
    StoredPayload,
    VersionConflict,
)
from coordinator.storage.log.head_position import HeadPosition
from coordinator.storage.log.mapping import (
    NO_METADATA,
    StoredRow,
    by_stream,
    client_mark,
    page_of,
    to_appended,
    to_columns,
    to_recorded,
)


class MemoryEventLog:
    """An `EventLog` over the library's recorder for plain objects."""

    def __init__(self) -> None:
        self.recorder = POPOApplicationRecorder()
        self._payloads: dict[tuple[UUID, PayloadKind], StoredPayload] = {}
        self._metadata: dict[tuple[UUID, int], bytes] = {}
        """By stream and version: the library's recorder has no place for them."""
        self._lock = RLock()
        self._head = HeadPosition()

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        columns = to_columns(events)
        stored = [StoredEvent(*row) for row in zip(*columns[:4], strict=True)]
        with self._lock:
            previous = self.head()
            try:
                positions = self.recorder.insert_events(stored)
            except IntegrityError as error:
                raise VersionConflict("another append took one of these stream versions") from error
            assert positions is not None
            self._payloads.update({(p.job_id, p.kind): p for p in payloads})
            keys = zip(columns.streams, columns.versions, strict=True)
            self._metadata.update(zip(keys, columns.metadata, strict=True))
        self._head.moved(positions[-1])
        return to_appended(previous, positions, events, columns)

    def load(self, streams: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        wanted = set(streams)
        return by_stream(row for row in self._rows(0, None) if row[1] in wanted)

    def versions(self, streams: Collection[UUID]) -> dict[UUID, int]:
        wanted = set(streams)
        return {stream: version for _, stream, version, *_ in self._rows(0, None) if stream in wanted}

    def read(self, after: int, limit: int) -> list[Recorded]:
        return to_recorded(self._rows(after, limit))

    def read_of(self, client: str, after: int, until: int, limit: int) -> Page:
        mark = client_mark(client)
        rows = [row for row in self._rows(after, None) if row[0] <= until and mark in row[4]]
        return page_of(client, to_recorded(rows[:limit]), until, limit)

    def head(self) -> int:
        return self.recorder.max_notification_id() or 0

    def wait(self, after: int, timeout: float) -> bool:
        return self._head.wait(after, timeout)

    def payloads(self, kind: PayloadKind, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        with self._lock:
            found = {job: self._payloads.get((job, kind)) for job in job_ids}
        return {job: payload for job, payload in found.items() if payload is not None}

    def erase(self, job_ids: Collection[UUID], kind: PayloadKind | None = None) -> None:
        erased = set(job_ids)
        with self._lock:
            self._payloads = {
                key: p
                for key, p in self._payloads.items()
                if p.job_id not in erased or kind not in (None, p.kind)
            }

    def scrub(self) -> bool:
        return True

    def close(self) -> None:
        self._head.close()

    def _rows(self, after: int, limit: int | None) -> list[StoredRow]:
        if limit is not None and limit <= 0:
            return []
        notifications = self.recorder.select_notifications(
            after, limit if limit is not None else -1, inclusive_of_start=False
        )
        return [
            (
                n.id,
                stream,
                n.originator_version,
                n.topic,
                n.state,
                self._metadata_of(stream, n.originator_version),
            )
            for n in notifications
            if isinstance(stream := n.originator_id, UUID)
        ]

    def _metadata_of(self, stream: UUID, version: int) -> bytes:
        return self._metadata.get((stream, version), NO_METADATA)
