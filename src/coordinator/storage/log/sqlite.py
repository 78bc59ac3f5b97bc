"""The event log in one SQLite file, for the embedded mode."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from uuid import UUID

from eventsourcing.persistence import IntegrityError, StoredEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteCursor, SQLiteDatastore

from coordinator.application.ports import (
    Appended,
    NewEvent,
    Page,
    PayloadKind,
    Recorded,
    StoredPayload,
    VersionConflict,
)
from coordinator.domain.account import CARRIED_EVERY, PAYMENTS_STREAM
from coordinator.storage.connections.sqlite_file import SqliteFile, execute_rows
from coordinator.storage.log.head_position import HeadPosition
from coordinator.storage.log.mapping import (
    NO_METADATA,
    Columns,
    StoredRow,
    by_job,
    by_stream,
    client_mark,
    last_of_each,
    page_of,
    to_appended,
    to_columns,
    to_recorded,
    whole_from,
)

POLL_SECONDS = 0.5  # for appends by other processes; this one's are signalled

# An explicit rowid column: VACUUM may renumber a table without one, and AUTOINCREMENT never reuses a number,
# even if the newest rows were deleted.
_CREATE_EVENTS = """
CREATE TABLE IF NOT EXISTS stored_events (
    rowid INTEGER PRIMARY KEY AUTOINCREMENT,
    originator_id TEXT NOT NULL,
    originator_version INTEGER NOT NULL,
    topic TEXT NOT NULL,
    state BLOB NOT NULL,
    metadata BLOB NOT NULL,
    UNIQUE (originator_id, originator_version)
)"""
_CREATE_PAYLOADS = """
CREATE TABLE IF NOT EXISTS payloads (
    job_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    salt BLOB NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (job_id, kind)
)"""
_APPEND = "INSERT INTO stored_events (originator_id, originator_version, topic, state, metadata) {}"
_PUT_PAYLOADS = (
    "INSERT INTO payloads (job_id, kind, salt, body) {} "
    "ON CONFLICT (job_id, kind) DO UPDATE SET salt = excluded.salt, body = excluded.body"
)
_HEAD = "SELECT coalesce(max(rowid), 0) FROM stored_events"
_READ = (
    "SELECT rowid, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE rowid > ? ORDER BY rowid LIMIT ?"
)
_READ_OF = (
    "SELECT rowid, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE rowid > ? AND rowid <= ? AND instr(state, ?) > 0 ORDER BY rowid LIMIT ?"
)
# json_each takes any number of ids as one parameter.
_LOAD = (
    "SELECT rowid, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE originator_id IN (SELECT value FROM json_each(?)) AND originator_version < ? "
    "ORDER BY originator_id, originator_version"
)
_LOAD_LATER = (
    "SELECT rowid, originator_id, originator_version, topic, state, metadata FROM stored_events "
    "WHERE originator_id = ? AND originator_version >= ? ORDER BY originator_version"
)
_VERSIONS = (
    "SELECT value, "
    "(SELECT max(originator_version) FROM stored_events WHERE originator_id = value) AS version "
    "FROM json_each(?) WHERE version IS NOT NULL"
)
_PAYLOADS = (
    "SELECT job_id, salt, body FROM payloads WHERE kind = ? AND job_id IN (SELECT value FROM json_each(?))"
)
_ERASE = "DELETE FROM payloads WHERE job_id IN (SELECT value FROM json_each(?)) AND (? OR kind = ?)"


class SqliteDatastore(SQLiteDatastore):
    """The library's datastore on our connections, with one lock for all writers of the file."""

    def __init__(self, file: SqliteFile) -> None:
        super().__init__(str(file.path))
        self.file = file

    @contextmanager
    def transaction(self, *, commit: bool) -> Iterator[SQLiteCursor]:
        try:
            with self.file.writing(durable=True) if commit else self.file.reading() as connection:
                cursor = connection.cursor()
                cursor.row_factory = sqlite3.Row  # the library reads by name
                yield SQLiteCursor(cursor)
        except sqlite3.IntegrityError as error:
            raise IntegrityError(error) from error


class SqliteRecorder(SQLiteApplicationRecorder):
    """The library's recorder, with payloads beside the events, and positions that are never reused."""

    def __init__(self, datastore: SqliteDatastore) -> None:
        super().__init__(datastore)
        self.file = datastore.file
        self.insert_events_statement = _APPEND.format("VALUES (?,?,?,?,?)")

    def construct_create_table_statements(self) -> list[str]:
        return [_CREATE_EVENTS, _CREATE_PAYLOADS]

    def append(self, columns: Columns, payloads: Sequence[StoredPayload] = ()) -> tuple[int, Sequence[int]]:
        """Append events and store payloads in one durable transaction.

        Returns the log's last position before these events, and their positions. Raises
        sqlite3.IntegrityError.
        """
        events = [(stream.hex, *others) for stream, *others in zip(*columns, strict=True)]
        contents = [(p.job_id.hex, p.kind, p.salt, p.body) for p in last_of_each(payloads)]
        with self.file.writing(durable=True) as connection:
            (previous,) = connection.execute(_HEAD).fetchone()
            last = execute_rows(connection, _APPEND.format, events)
            execute_rows(connection, _PUT_PAYLOADS.format, contents)
        assert last is not None
        # Nobody else writes in between, so that the numbers of one transaction have no gaps.
        positions = list(range(last - len(events) + 1, last + 1))
        for moved in tuple(self.file.on_append):
            moved(last)
        return previous, positions

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: object) -> Sequence[int]:
        if not stored_events:
            return []
        columns = Columns(
            *zip(
                *((_uuid(e), e.originator_version, e.topic, e.state, NO_METADATA) for e in stored_events),
                strict=True,
            )
        )
        try:
            return self.append(columns)[1]
        except sqlite3.IntegrityError as error:
            raise IntegrityError(error) from error


class SqliteEventLog:
    """An `EventLog` in the SQLite file `path`; `migrate` has made its tables."""

    def __init__(self, path: str | Path) -> None:
        self._file = SqliteFile.open(path)
        self.recorder = SqliteRecorder(SqliteDatastore(self._file))
        self._head = HeadPosition()
        self._file.on_append.add(self._head.moved)

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        columns = to_columns(events)
        try:
            previous, positions = self.recorder.append(columns, payloads)
        except sqlite3.IntegrityError as error:
            raise VersionConflict("another append took one of these stream versions") from error
        return to_appended(previous, positions, events, columns)

    def load(self, streams: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        others = [stream for stream in streams if stream != PAYMENTS_STREAM]
        found = by_stream(self._rows(_LOAD, _hexes(others), CARRIED_EVERY)) if others else {}
        for stream, events in found.items():
            if len(events) == CARRIED_EVERY - 1:
                found[stream] = whole_from(events, self.versions([stream])[stream], self._later)
        if len(others) < len(streams):  # each of its events has the whole state
            last = self.versions([PAYMENTS_STREAM]).get(PAYMENTS_STREAM)
            if last is not None:
                found[PAYMENTS_STREAM] = self._later(PAYMENTS_STREAM, last)
        return found

    def _later(self, stream: UUID, version: int) -> list[Recorded]:
        return to_recorded(self._rows(_LOAD_LATER, stream.hex, version))

    def versions(self, streams: Collection[UUID]) -> dict[UUID, int]:
        with self._file.reading() as connection:
            rows = connection.execute(_VERSIONS, (_hexes(streams),)).fetchall()
        return {UUID(stream): version for stream, version in rows}

    def read(self, after: int, limit: int) -> list[Recorded]:
        return to_recorded(self._rows(_READ, after, limit))

    def read_of(self, client: str, after: int, until: int, limit: int) -> Page:
        rows = self._rows(_READ_OF, after, until, client_mark(client), limit)
        return page_of(client, to_recorded(rows), until, limit)

    def head(self) -> int:
        with self._file.reading() as connection:
            head: int = connection.execute(_HEAD).fetchone()[0]
        self._head.moved(head)
        return head

    def wait(self, after: int, timeout: float) -> bool:
        deadline = monotonic() + timeout
        while True:
            remaining = deadline - monotonic()
            if self._head.wait(after, min(remaining, POLL_SECONDS)):
                return True
            if self._head.closed:
                return False
            if self.head() > after:
                return True
            if remaining <= 0:
                return False

    def payloads(self, kind: PayloadKind, job_ids: Collection[UUID]) -> dict[UUID, StoredPayload]:
        with self._file.reading() as connection:
            rows = connection.execute(_PAYLOADS, (kind, _hexes(job_ids))).fetchall()
        return by_job(kind, ((UUID(job), salt, body) for job, salt, body in rows))

    def erase(self, job_ids: Collection[UUID], kind: PayloadKind | None = None) -> None:
        with self._file.writing(durable=True) as connection:
            connection.execute(_ERASE, (_hexes(job_ids), kind is None, kind))

    def scrub(self) -> bool:
        return self._file.empty_wal()

    def close(self) -> None:
        if self._head.closed:
            return
        self._head.close()
        self._file.on_append.discard(self._head.moved)
        self._file.close()

    def _rows(self, statement: str, *parameters: object) -> Iterator[StoredRow]:
        with self._file.reading() as connection:
            rows = connection.execute(statement, parameters).fetchall()
        streams = _Uuids()
        return ((position, streams[hex], *rest) for position, hex, *rest in rows)


class _Uuids(dict[str, UUID]):
    """By their hex digits. Making one takes a microsecond, and most streams have several events in a page."""

    def __missing__(self, hex: str) -> UUID:
        made = self[hex] = UUID(hex)
        return made


def _hexes(ids: Collection[UUID]) -> str:
    return json.dumps([i.hex for i in ids])


def _uuid(event: StoredEvent) -> UUID:
    assert isinstance(event.originator_id, UUID)
    return event.originator_id
