"""What each name uses: jobs, stored bytes and miners, counted from the log. Pure: no I/O, no clock.

The counts begin with rows of the tables, each exact as of a position, and go on with the events after it. So
the memory is a few numbers a name, and the ids of running jobs and of live miners.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple, assert_never

from coordinator.application.ports import Recorded
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    is_job_event,
)
from coordinator.domain.miner import (
    MinerDrained,
    MinerEvent,
    MinerLeft,
    MinerLost,
    MinerRegistered,
    is_miner_event,
)

MIN_BLOB_BYTES = 4096
"""The least that an uploaded file counts: a file system's block, and some of the row that names it."""


def blob_charge(size: int) -> int:
    """The bytes that an uploaded file of this size counts."""
    return max(size, MIN_BLOB_BYTES)


class OpenRow(NamedTuple):
    """The open jobs of a name, or one running job of it, or one live miner."""

    kind: str
    """open, running or miner."""
    name: str
    """The client; empty for a miner."""
    subject: str
    """The job or the miner; empty for the count of open jobs."""
    number: int
    detail: str
    """The profile of a miner."""


class StoredRow(NamedTuple):
    """The stored bytes of a name."""

    name: str
    payload_bytes: int
    blob_bytes: int


class Stored(NamedTuple):
    """The stored bytes of a name, now."""

    payloads: int
    blobs: int


_NOTHING = Stored(0, 0)


class NameUsage(NamedTuple):
    """The figures of one name."""

    queued_jobs: int
    running_jobs: int
    payload_bytes: int
    blob_bytes: int
    miners: int
    profiles: int

    @property
    def stored_bytes(self) -> int:
        return self.payload_bytes + self.blob_bytes


def owner_of(miner_id: str) -> str:
    """The name of the principal that a miner belongs to."""
    return miner_id.rpartition("@")[2]


class QuotaUsage:
    """The counts of one process."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._running: dict[str, str] = {}
        """The client of each running job."""
        self._running_of: dict[str, int] = {}
        self._stored: dict[str, Stored] = {}
        self._recent: deque[tuple[int, str, int]] = deque()
        """Position, name and bytes of payloads that the table may not have yet."""
        self._miners: dict[str, dict[str, str]] = {}
        """By name and miner: its profile."""
        self._open_from = 0
        self.stored_from = 0
        """The position of the table of stored bytes."""

    # --- from the tables ------------------------------------------------------------------------------------
    def begin(self, position: int, rows: Iterable[OpenRow]) -> None:
        """Take the open jobs and live miners as of this position of the dispatcher's tables."""
        self._open_from = position
        for row in rows:
            if row.kind == "open":
                self._open[row.name] = row.number
            elif row.kind == "running":
                self._running[row.subject] = row.name
                self._running_of[row.name] = self._running_of.get(row.name, 0) + 1
            else:
                self._miners.setdefault(owner_of(row.subject), {})[row.subject] = row.detail

    def begin_stored(self, position: int, rows: Iterable[StoredRow]) -> None:
        """Take the stored bytes as of this position, plus those of the events after it."""
        self.stored_from = position
        while self._recent and self._recent[0][0] <= position:
            self._recent.popleft()
        self._stored = {row.name: Stored(row.payload_bytes, row.blob_bytes) for row in rows}
        for name, size in self.unstored().items():
            self._add_payload(name, size)

    # --- from the log ---------------------------------------------------------------------------------------
    def note(self, recorded: Recorded) -> None:
        """Take in the next event."""
        event = recorded.event
        if is_job_event(event):
            self._note_job(recorded, event)
        elif is_miner_event(event) and recorded.position > self._open_from:
            self._note_miner(event)

    def note_blob(self, name: str, charge: int) -> None:
        """Count an upload that the table has already; the next `begin_stored` brings it, too."""
        payloads, blobs = self._stored.get(name, _NOTHING)
        self._stored[name] = Stored(payloads, blobs + charge)

    def _note_job(self, recorded: Recorded, event: JobEvent) -> None:
        client, is_new = event.client, recorded.position > self._open_from
        match event:
            case JobSubmitted():
                self._note_bytes(recorded.position, client, event.payload_bytes)
                if is_new:
                    self._open[client] = self._open.get(client, 0) + 1
            case JobStarted():
                if is_new and recorded.key not in self._running:
                    self._running[recorded.key] = client
                    self._running_of[client] = self._running_of.get(client, 0) + 1
            case JobCompleted():
                self._note_bytes(recorded.position, client, event.result_bytes)
                if is_new:
                    self._end_job(recorded.key, client)
            case JobRequeued() | JobAttemptEnded():
                if is_new:
                    self._end_run(recorded.key)
            case JobFailed() | JobCanceled() | JobExpired():
                if is_new:
                    self._end_job(recorded.key, client)
            case _:
                assert_never(event)

    def _note_miner(self, event: MinerEvent) -> None:
        name = owner_of(event.miner_id)
        match event:
            case MinerRegistered():
                self._miners.setdefault(name, {})[event.miner_id] = event.profile
            case MinerLeft() | MinerLost():
                miners = self._miners.get(name, {})
                miners.pop(event.miner_id, None)
                if not miners:
                    self._miners.pop(name, None)
            case MinerDrained():
                pass  # it has its session, and its queue, until it leaves
            case _:
                assert_never(event)

    def _end_job(self, job_id: str, client: str) -> None:
        self._end_run(job_id)
        left = self._open.get(client, 0) - 1
        if left > 0:
            self._open[client] = left
        else:
            self._open.pop(client, None)

    def _end_run(self, job_id: str) -> None:
        client = self._running.pop(job_id, None)
        if client is not None:
            left = self._running_of[client] - 1
            if left:
                self._running_of[client] = left
            else:
                del self._running_of[client]

    def _note_bytes(self, position: int, name: str, size: int) -> None:
        if position > self.stored_from and size:
            self._recent.append((position, name, size))
            self._add_payload(name, size)

    def _add_payload(self, name: str, size: int) -> None:
        payloads, blobs = self._stored.get(name, _NOTHING)
        self._stored[name] = Stored(payloads + size, blobs)

    def unstored(self) -> dict[str, int]:
        """By name: the bytes of events that the table does not have yet."""
        added: dict[str, int] = {}
        for _, name, size in self._recent:
            added[name] = added.get(name, 0) + size
        return added

    def note_stored(self, position: int) -> None:
        """The table has the bytes of the events up to here."""
        if position > self.stored_from:
            self.stored_from = position
            while self._recent and self._recent[0][0] <= position:
                self._recent.popleft()

    # --- questions ------------------------------------------------------------------------------------------
    def queued(self, name: str) -> int:
        """The jobs of this name that wait for a miner."""
        return self._open.get(name, 0) - self._running_of.get(name, 0)

    def stored(self, name: str) -> int:
        """The stored bytes of this name."""
        payloads, blobs = self._stored.get(name, _NOTHING)
        return payloads + blobs

    def miners(self, name: str) -> Mapping[str, str]:
        """The live miners of this name, with their profiles."""
        return self._miners.get(name, {})

    def of(self, name: str) -> NameUsage:
        """All figures of this name."""
        payloads, blobs = self._stored.get(name, _NOTHING)
        miners = self._miners.get(name, {})
        running = self._running_of.get(name, 0)
        return NameUsage(self.queued(name), running, payloads, blobs, len(miners), len(set(miners.values())))

    def names(self) -> set[str]:
        """All names that use anything."""
        return self._open.keys() | self._stored.keys() | self._miners.keys()

    def total_stored(self) -> Stored:
        """The stored bytes of all names."""
        everything = self._stored.values()
        return Stored(sum(s.payloads for s in everything), sum(s.blobs for s in everything))
