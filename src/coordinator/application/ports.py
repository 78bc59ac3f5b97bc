"""The ports: the application's needs from the outside, as Protocols. `runtime.bootstrap` wires the adapters.

`EventLog` and `Database` are synchronous and are called in threads; all ports to a broker are asynchronous.
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
        """All events of these streams, in version order, in one query; a stream without events is absent."""

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


# --- tables ------------------------------------------------------------------------------------------------
Row = Mapping[str, Any]


class PositionMoved(Exception):
    """Another process moved this follower's position: this one no longer leads. Nothing was written."""


class Tables(Protocol):
    """The derived tables, inside one transaction. Columns hold str, int, float, bytes or None.

    A write may be delayed until a read needs it, or until the end of the transaction; so may its errors.
    """

    def put(self, table: str, rows: Sequence[Row]) -> None:
        """Insert these whole rows, or replace the rows with the same keys; one statement for all."""

    def change(self, table: str, rows: Mapping[str, Row]) -> None:
        """Set these columns (the same in all rows) of the rows with these keys; one statement for all.

        For tables whose key is one text column, which the rows leave out. Missing keys are ignored.
        """

    def remove(self, table: str, keys: Collection[str]) -> None:
        """Delete the rows with these keys (tables whose key is one text column); one statement for all."""

    def query(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        """The rows of a named statement (see the `.sql` files). A list parameter fits `IN (:list)`."""

    def execute(self, statement: str, **params: Any) -> int:
        """Run a named statement; returns the number of changed rows."""

    def position(self, follower: str) -> int:
        """The position of this follower; 0 at first."""

    def move(self, follower: str, before: int, after: int) -> None:
        """Move a follower's position. Raises PositionMoved if it is not at `before`."""


class Database(Protocol):
    """The database of the tables, which is also the log's. Thread-safe."""

    def transaction(self) -> AbstractContextManager[Tables]:
        """One transaction: committed at the end, rolled back by an exception. Raises LogUnavailable."""

    def close(self) -> None: ...


class Leadership(Protocol):
    """At most one process at a time holds a name."""

    async def acquire(self, name: str) -> None:
        """Wait until this process holds `name`."""

    def holds(self, name: str) -> bool:
        """Whether this process still holds `name`, as far as it knows."""

    def led_elsewhere(self, name: str) -> bool:
        """Whether another process held `name` when this one last asked, a moment ago."""

    async def release(self, name: str) -> None: ...

    async def close(self) -> None: ...


# --- work --------------------------------------------------------------------------------------------------
class TakenOffer(Protocol):
    """An offer taken from a queue; its taker must settle it with `done` or `back`."""

    @property
    def offer(self) -> Offer: ...

    async def done(self) -> None:
        """The offer was claimed, or is useless: take it off the queue."""

    async def back(self) -> None:
        """Put the offer back for another taker."""


class WorkQueues(Protocol):
    """One queue of offers per profile."""

    @property
    def system(self) -> str:
        """The messaging system, as traces name it."""

    async def ensure(self, profile: str) -> None:
        """Create the profile's queue if it is missing."""

    async def publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        """Put bundles of offers on the queue; a bundle is one message. Returns offers that did not arrive."""

    async def take(self, profile: str, wait: float) -> TakenOffer | None:
        """One offer, after a wait of up to `wait` seconds; for miners that poll over HTTP."""

    def at_hand(self, profile: str, most: int) -> Sequence[TakenOffer]:
        """Up to `most` further offers that need no wait, after one was taken; may miss some."""

    def on_reset(self, callback: Callable[[], None]) -> None:
        """Call back when the content of the queues becomes unknown (the broker came back)."""


class Hints(Protocol):
    """Hints to one miner: a lost hint costs time, never correctness."""

    async def send(self, miner_id: str, hint: Mapping[str, Any]) -> None:
        """`{"hint": "cancel", "job_id", "attempt"}`, `{"hint": "drain", "session_id"}` or
        `{"hint": "register"}`.
        """


@dataclass(frozen=True, slots=True)
class ReplayableLetter:
    """A message that could not be handled. Everything in it comes from strangers."""

    id: str
    """Of its content: the same message, dead twice, has one id."""
    type: str
    routing_key: str
    code: str
    reason: str
    principal: str
    """As the message claims."""
    role: str
    """Of the sender's key; empty if it is not known."""
    proven: bool
    """Whether this coordinator had authenticated the sender before the message failed."""
    at: Millis | None
    message_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Replayed:
    """A dead letter that was sent again in its sender's name; it stays unless all of it was accepted."""

    letter: ReplayableLetter
    answers: Sequence[Answer]


class DeadLetterReplays(Protocol):
    """The messages that could not be handled, where an operator looks at them. One call at a time."""

    async def oldest(self, limit: int) -> tuple[Sequence[ReplayableLetter], int]:
        """The oldest ones, and the number of all. Raises BrokerMismatch, ConnectionError."""

    async def replay(self, ids: Collection[str] | None, limit: int, *, unproven: bool) -> Sequence[Replayed]:
        """Send these (None: the oldest ones) again as their senders' commands, and remove the accepted ones.

        Those without a proven sender are refused unless `unproven`: an admin vouches for the names.
        """

    async def drop(self, ids: Collection[str] | None, limit: int) -> Sequence[ReplayableLetter]:
        """Remove these (None: the oldest ones) for good."""


class EventSink(Protocol):
    """The destination of published events."""

    async def publish(self, events: Sequence[Recorded]) -> None:
        """Returns once all events are confirmed; raises otherwise, and the caller repeats all of them."""


class BlobSink(Protocol):
    """The destination of bodies that are too large for a row (the blob store; see `coordinator.blobs`)."""

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobName: ...


class BlobSource(Protocol):
    """The source of such bodies."""

    def get(self, sha256: str) -> AsyncIterator[bytes]: ...


class BlobRemoval(Protocol):
    """The store of bodies that nobody needs any more."""

    async def delete_older(self, sha256: str, before: float) -> bool:
        """Remove a blob unless it was stored again since `before` (Unix seconds); whether it is gone."""


class BlobName(Protocol):
    @property
    def sha256(self) -> str: ...


class CoordinatorRuns(Exception):
    """A coordinator of this database runs."""


class BrokerMismatch(Exception):
    """The broker has something of this name that is not this coordinator's. The text says what to do."""


# --- commands ----------------------------------------------------------------------------------------------
class Intent(NamedTuple):
    """A command and its sender."""

    command: Command
    principal: Principal
    message_id: str | None = None
    """Makes a submit without an idempotency key repeatable, as the broker may deliver a message twice."""
    traceparent: str | None = None
    """The W3C trace context of its message or request."""
    queue: str | None = None
    """The queue that its message came from; None for any other way."""
    span: str | None = None
    """The span in which it is handled, as a trace context, if that is recorded; what follows is below it."""


class Gateway(Protocol):
    """The entry point for the commands of HTTP and AMQP. It answers only after the commit."""

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        """Decide these commands; the answers are in the same order. Each command fails alone; never raises.

        An accepted `miner.register` has created the miner's queues, and its answer names them.
        """

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        """Note these heartbeats; each answer repeats the wanted state (see the protocol page)."""

    async def canonical(self, service: str) -> str:
        """The id of the registry entry with this id or alias; the text itself if no entry has it."""

    async def state(self, stream: UUID) -> Any:
        """The state of one aggregate, fresh from the log (None if there is no such stream)."""


class Watermarks(Protocol):
    """The positions of the followers, for reads that ask for at least a position."""

    def hurry(self, follower: str, position: int) -> None:
        """Somebody waits for this position: have the follower store it without a rest, if it is led here."""

    async def reached(self, follower: str, position: int, timeout: float) -> bool:
        """Wait until `follower` has reached `position`; False if `timeout` seconds pass first."""

    def of(self, follower: str) -> int:
        """The follower's last position known to this process."""


# --- looking after ------------------------------------------------------------------------------------------
class DeadLetters(Protocol):
    """The number of messages that could not be handled; `DeadLetterReplays` reads them."""

    async def count(self) -> int:
        """Raises ConnectionError without a broker."""


class TableCheck(NamedTuple):
    """How far the read models were compared with the log."""

    begun_at: int
    """The position after which the comparison began."""
    checked_to: int
    rows: int
    """Compared rows."""
    differences: Sequence[str]
    """The first ones found, one sentence each."""
    at: Millis
    """The time of the last comparison."""


class TableChecks(Protocol):
    """Compares the read models with the log, piece by piece. Blocks: call it in a thread."""

    def advance(self) -> TableCheck:
        """Compare the next piece. Raises LogError."""


# --- time --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Clock:
    """Wall-clock milliseconds for facts, monotonic seconds for waiting."""

    now: Callable[[], Millis]
    monotonic: Callable[[], float]
