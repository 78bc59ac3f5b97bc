"""The log: appends, reads, and the payloads beside it. Synchronous; called in threads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from coordinator.domain.messages import Event, Metadata, Traceparent


class NewEvent(NamedTuple):
    """An event to append: the `version`-th (1, 2, …) of its stream."""

    stream: UUID
    version: int
    event: Event
    metadata: Metadata


class Recorded(NamedTuple):
    """An event in the log. `position` increases along the log and may have gaps."""

    position: int
    stream: UUID
    version: int
    event: Event
    data: bytes
    """The stored JSON of the event, in the current version of its topic."""
    metadata_json: bytes
    """The stored JSON of the metadata."""
    key: str
    """The stream's id as text, made once; the stream of a job has the job's id."""
    original: tuple[str, bytes] | None = None
    """Topic and JSON as they are stored, where an upcaster changed them: the Merkle tree hashes these."""

    @property
    def metadata(self) -> Metadata:
        """Read anew at each call: few readers need it, and a log in memory holds bytes more cheaply."""
        return Metadata.from_json(self.metadata_json)

    @property
    def traceparent(self) -> Traceparent:
        """That of the metadata, which end with it; it has no escapes."""
        return self.metadata_json.rsplit(b'"', 2)[1].decode()


class Page(NamedTuple):
    """Some events, and the position up to which they are complete."""

    events: Sequence[Recorded]
    reached: int


PayloadKind = Literal["payload", "result"]


class StoredPayload(NamedTuple):
    """A job's payload or result, beside the log and never in it: its erasure leaves the log verifiable.

    `body` is JSON: the payload or result itself, or `{"blob": "blob:<sha256>"}` for more than 64 KiB.
    """

    job_id: UUID
    kind: PayloadKind
    salt: bytes
    body: bytes


class Appended(NamedTuple):
    """The appended events with their positions, in order, and the log's last position before them.

    `previous` is exact (read under the append lock), so that a reader at `previous` may go on with these
    events without reading the log.
    """

    previous: int
    events: Sequence[Recorded]


class LogError(Exception):
    """The log failed."""


class VersionConflict(LogError):
    """Another append took one of these stream versions. Nothing was appended; fold again and decide again."""


class LogUnavailable(LogError):
    """The database is out of reach. The outcome of a commit in flight is unknown: repeat the command."""


class EventLog(Protocol):
    """One append-only log of many streams. Thread-safe."""

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        """Append all events and store all payloads in one transaction, or nothing at all.

        Raises VersionConflict, LogUnavailable. `events` is not empty.
        """

    def load(self, streams: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        """The events of these streams that their states follow from, in version order.

        All of them, in one query; of an account with a long history those from the last one on that has its
        whole state (`AccountCarried`); of settlements the last one. A stream without events is absent.
        """

    def versions(self, streams: Collection[UUID]) -> dict[UUID, int]:
        """The current version of these streams, in one query; a stream without events is absent."""

    def read(self, after: int, limit: int) -> list[Recorded]:
        """Up to `limit` events after position `after`, in position order. Never skips a later commit."""

    def read_of(self, client: str, after: int, until: int, limit: int) -> Page:
        """Up to `limit` events of this client's jobs after `after` and not after `until`, in position order.

        It scans all events in between, so ask for bounded ranges.
        """

    def head(self) -> int:
        """The last position; 0 for an empty log."""

    def wait(self, after: int, timeout: float) -> bool:
        """Block until the log has an event after `after` (True), or `timeout` seconds have passed (False).

        Uses notifications, backed by a slow poll; survives the loss of its connection.
        """

    def payloads(self, kind: PayloadKind, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        """These jobs' payloads or results, in one query; erased and unknown ones are absent."""

    def erase(self, job_ids: Collection[UUID], kind: PayloadKind | None = None) -> None:
        """Delete these jobs' payloads and results (or those of one kind), with their salts, for good.

        The log stays unchanged.
        """

    def scrub(self) -> bool:
        """Leave nothing of erased content in the files of the database, where that is up to this program.

        False if something stands in the way for now (a reader of an older state): call it again later.
        """

    def close(self) -> None:
        """Close all connections and wake all waiting calls. May be called twice."""
