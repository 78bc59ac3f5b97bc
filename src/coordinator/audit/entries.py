"""What the auditor reads, and what it reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol


class Entry(NamedTuple):
    """One event, as it is stored."""

    position: int
    stream: str
    """A UUID with hyphens."""
    version: int
    topic: str
    metadata: bytes
    state: bytes
    """Empty if only its digest is known."""
    leaf: bytes = b""
    """The leaf, where the source has it and nothing else."""


class StoredCheckpoint(NamedTuple):
    """A checkpoint as the log's owner keeps it."""

    origin: str
    size: int
    note: str


class Divergence(NamedTuple):
    """The first place where the log, its proofs or its tables are not what they should be."""

    position: int
    """Of the event; for a checkpoint, that of its last event; 0 if there is none."""
    kind: str
    """A word of `KINDS`."""
    detail: str
    expected: Any = None
    found: Any = None


KINDS = {
    "order": "positions increase",
    "version": "the versions of a stream are 1, 2, 3, …",
    "stream": "an event is in the stream of its noun",
    "event": "an event has the stored form of a known topic",
    "metadata": "an event names its command and its trace",
    "transition": "an event follows from the state before it",
    "attempt": "attempts only grow, and a stale one changes nothing",
    "lease": "at most one miner holds a job, and a result is its holder's",
    "final": "a job has one final state, and no event after it",
    "client": "every event of a job names its owner",
    "service": "a job names a registered version of its service, with its terms",
    "session": "a claim names a session and the key that the miner registered with it",
    "money": "entries sum to zero, holds are those of the jobs behind them, settlements follow each other "
    "without a gap, and each completed job is paid once, its price",
    "settlement": "batches are chained without gaps, only prepared bytes are sent, and nothing is paid twice",
    "price": "a bill follows from time, price and limit",
    "statement": "the miner signed the result that was paid",
    "payload": "a stored payload or result has the digest of the log",
    "erased": "content is missing only after an event that says so, and is gone after it",
    "leaf": "the tree has the hash of each event",
    "missing": "the log has every event of the tree",
    "inserted": "the tree has every event of the log up to its end",
    "key": "the coordinator signs with keys that the auditor trusts",
    "checkpoint": "a checkpoint is signed by the log's key",
    "root": "a checkpoint has the root of the log's first events",
    "truncated": "the log has at least the events of its checkpoints",
    "rollback": "checkpoints only grow",
    "row": "a row of a read model is a fold of the log",
}
"""Every kind of divergence: what is true of a good log."""


class Found(Exception):
    """Something differs."""

    def __init__(self, kind: str, detail: str, expected: Any = None, found: Any = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.expected = expected
        self.found = found

    def at(self, position: int) -> Divergence:
        """As a divergence of the event at this position."""
        return Divergence(position, self.kind, self.detail, self.expected, self.found)


class BadSource(Exception):
    """The log can't be read from there: a damaged file, or an answer against the protocol."""


class Differing(Exception):
    """What is stored differs, and where is known: a row, or a form that the program never writes."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(divergence.detail)
        self.divergence = divergence


class StoredPayload(NamedTuple):
    """A stored payload or result."""

    job_id: str
    kind: str
    salt: bytes
    body: bytes


class StoredLeaves(NamedTuple):
    """A tile of leaves as the notary stored it: up to 256 hashes, and the positions of their events.

    A tile that is no such thing has another number of hashes than of positions.
    """

    hashes: bytes
    positions: Sequence[int]


class Tables(Protocol):
    """The read models of a database, at one moment."""

    def projected(self) -> int:
        """The position that the read models have reached."""

    def erased_to(self) -> int:
        """The position up to which erasures are carried out."""

    def count(self, table: str) -> int:
        """The number of rows."""

    def rows(self, table: str, key: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The rows with these keys."""

    def keys(self, table: str, key: str) -> Iterator[str]:
        """The keys of all rows."""

    def payloads(self, job_ids: Sequence[str]) -> list[StoredPayload]:
        """The payloads and results that are stored for these jobs."""

    def leaves(self, tile: int) -> StoredLeaves:
        """The stored tile of leaves with this number; empty if there is none."""

    def last_tile(self) -> int:
        """The largest number of a stored tile of leaves; -1 if there is none."""


class LogSource(Protocol):
    """A log at one moment."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def total(self) -> int | None:
        """The last position, or the number of bytes; None if it is unknown."""

    def entries(self, after: int) -> Iterator[Entry]:
        """The events after this position, in the order of the log. Raises Differing."""

    def done(self) -> int:
        """How much of `total` has been read."""

    def checkpoints(self) -> Iterator[StoredCheckpoint]:
        """All checkpoints, by origin in the order of their signing, then by size. Asked for first."""

    @property
    def tables(self) -> Tables | None:
        """The read models; None if the source has none."""


Opened = AbstractContextManager[LogSource]
