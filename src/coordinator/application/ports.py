"""The ports: what the application needs from the outside, as Protocols. Adapters are wired in `bootstrap`.

`EventLog` and `Database` are synchronous and are called from threads of their own; everything that speaks to
a broker is asynchronous.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

from coordinator.domain.messages import (
    Command,
    Event,
    Metadata,
    Millis,
    Principal,
)
from coordinator.wire.answers import Answer
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.offers import Offer


# --- the log -----------------------------------------------------------------------------------------------
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
    """The event as JSON, as the log holds it (in today's shape)."""
    metadata: Metadata
    """What it carries besides its facts."""
    key: str
    """The stream as text, for everybody who needs it: that of a job is the job's id."""


class Page(NamedTuple):
    """Some events, and the position up to which there are no others."""

    events: Sequence[Recorded]
    reached: int


PayloadKind = Literal["payload", "result"]


class StoredPayload(NamedTuple):
    """A job's payload or result, beside the log and never in it: erasing one leaves the log verifiable.

    `body` is JSON: the document itself, or `{"blob": "blob:<sha256>"}` where it is over 64 KiB.
    """

    job_id: UUID
    kind: PayloadKind
    salt: bytes
    body: bytes


class Appended(NamedTuple):
    """What an append came to: the events with their positions, in order, and the log's last position before.

    `previous` is exact (it is read under the append lock), so that a reader at `previous` may go on to these
    events without reading.
    """

    previous: int
    events: Sequence[Recorded]


class LogError(Exception):
    """The log could not do it."""


class VersionConflict(LogError):
    """Another append took one of these stream versions. Nothing was appended; fold again and decide again."""


class LogUnavailable(LogError):
    """The database is out of reach. Whether a commit in flight took place is unknown: repeat the command."""


class EventLog(Protocol):
    """One append-only log of many streams. Thread-safe."""

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        """Append all events, and store all payloads, in one transaction; or nothing at all.

        Raises VersionConflict, LogUnavailable. `events` is not empty.
        """

    def load(self, streams: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        """Every event of these streams, in version order, in one query; a stream without events is absent."""

    def versions(self, streams: Collection[UUID]) -> dict[UUID, int]:
        """The current version of these streams, in one query; a stream without events is absent."""

    def read(self, after: int, limit: int) -> list[Recorded]:
        """Up to `limit` events after position `after`, in position order. Never skips a later commit."""

    def read_of(self, client: str, after: int, until: int, limit: int) -> Page:
        """Up to `limit` events of this client's jobs after `after` and not after `until`, in position order.

        It looks through all events in between, so ask for bounded pieces.
        """

    def head(self) -> int:
        """The last position; 0 for an empty log."""

    def wait(self, after: int, timeout: float) -> bool:
        """Block until an event after `after` is there (True), or `timeout` seconds passed (False).

        Notified, with a slow poll behind it; survives the loss of its connection.
        """

    def payloads(self, kind: PayloadKind, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        """These jobs' payloads or results, in one query; what was erased or never was is absent."""

    def erase(self, job_ids: Collection[UUID]) -> None:
        """Delete these jobs' payloads, results and salts for good. The log stays as it is."""

    def close(self) -> None:
        """Give back every connection; wakes what waits. May be called twice."""


# --- tables ------------------------------------------------------------------------------------------------
Row = Mapping[str, Any]


class PositionMoved(Exception):
    """Someone else moved this follower's position: this process no longer leads. Nothing was written."""


class Tables(Protocol):
    """The derived tables, inside one transaction. Columns hold str, int, float, bytes or None.

    A write may be sent only when something has to see it, at the latest at the end: errors may come then.
    """

    def put(self, table: str, rows: Sequence[Row]) -> None:
        """Insert these whole rows, or replace those with the same key; one statement for all."""

    def change(self, table: str, rows: Mapping[str, Row]) -> None:
        """Set these columns (the same in all rows) of the rows with these keys; one statement for all.

        For tables whose key is one text column, which the rows leave out. A key that is not there is nothing.
        """

    def remove(self, table: str, keys: Collection[str]) -> None:
        """Delete the rows with these keys (tables whose key is one text column); one statement for all."""

    def query(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        """The rows of a named statement (see the `.sql` files). A list as parameter fits `IN (:list)`."""

    def execute(self, statement: str, **params: Any) -> int:
        """Run a named statement; the number of rows that it changed."""

    def position(self, follower: str) -> int:
        """How far this follower has read; 0 at first."""

    def move(self, follower: str, before: int, after: int) -> None:
        """Move a follower's position. Raises PositionMoved if it is not at `before`."""


class Database(Protocol):
    """Where the tables are: the same database as the log's. Thread-safe."""

    def transaction(self) -> AbstractContextManager[Tables]:
        """One transaction: committed at the end, rolled back by an exception. Raises LogUnavailable."""

    def close(self) -> None: ...


class Leadership(Protocol):
    """At most one process at a time holds a name."""

    async def acquire(self, name: str) -> None:
        """Wait until this process holds `name`."""

    def holds(self, name: str) -> bool:
        """Whether it still does, as far as this process knows."""

    async def release(self, name: str) -> None: ...

    async def close(self) -> None: ...


# --- work --------------------------------------------------------------------------------------------------
class TakenOffer(Protocol):
    """An offer taken from a queue, to be settled one way or the other."""

    @property
    def offer(self) -> Offer: ...

    async def done(self) -> None:
        """It was claimed, or is of no use: take it off the queue."""

    async def back(self) -> None:
        """Put it back for another taker."""


class WorkQueues(Protocol):
    """One queue of offers per profile."""

    async def ensure(self, profile: str) -> None:
        """Make the profile's queue if it is not there."""

    async def publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        """Put bundles of offers on the queue; a bundle is one message. Returns what did not arrive."""

    async def take(self, profile: str, wait: float) -> TakenOffer | None:
        """One offer, waiting up to `wait` seconds; for miners that poll over HTTP."""

    def on_reset(self, callback: Callable[[], None]) -> None:
        """Call back when what is on the queues became unknown (the broker came back)."""


class Hints(Protocol):
    """Nudges to one miner: a lost one costs time, never correctness."""

    async def send(self, miner_id: str, hint: Mapping[str, Any]) -> None:
        """`{"hint": "cancel", "job_id", "attempt"}`, `{"hint": "drain", "session_id"}` or
        `{"hint": "register"}`.
        """


class EventSink(Protocol):
    """Where events are published to for others to read."""

    async def publish(self, events: Sequence[Recorded]) -> None:
        """Returns when all are confirmed; raises when any is not, and is then called again with the same."""


class BlobSink(Protocol):
    """Where a payload goes that is too large for a row (the blob store; see `coordinator.blobs`)."""

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobName: ...


class BlobSource(Protocol):
    """Where such a document is read from again."""

    def get(self, sha256: str) -> AsyncIterator[bytes]: ...


class BlobName(Protocol):
    @property
    def sha256(self) -> str: ...


# --- the way in --------------------------------------------------------------------------------------------
class Intent(NamedTuple):
    """A command, and who sent it."""

    command: Command
    principal: Principal
    message_id: str | None = None
    """Makes a submit without an idempotency key repeatable: the broker may deliver one message twice."""
    traceparent: str | None = None
    """The W3C trace context of the message or request that it came with."""


class Gateway(Protocol):
    """What both edges hand their messages to. It answers only after the commit."""

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        """Decide these commands; the answers in the same order. Elements fail singly; never raises.

        An accepted `miner.register` has made the miner's queues, and its answer names them.
        """

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        """Note these heartbeats; each answer repeats the state that we want (see the protocol page)."""

    async def canonical(self, service: str) -> str:
        """The id of the registry entry with this id or alias; the text itself where there is none."""

    async def state(self, stream: UUID) -> Any:
        """The state of one aggregate, fresh from the log (None where there is no such stream)."""


class Watermarks(Protocol):
    """How far the followers have come, for reads that ask for at least a position."""

    async def reached(self, follower: str, position: int, timeout: float) -> bool:
        """Wait until `follower` has read up to `position`; False when `timeout` seconds passed before."""

    def of(self, follower: str) -> int:
        """The last position known here."""


# --- moments -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Clock:
    """Wall-clock milliseconds for facts, monotonic seconds for waiting."""

    now: Callable[[], Millis]
    monotonic: Callable[[], float]
