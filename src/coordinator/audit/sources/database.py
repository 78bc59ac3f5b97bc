"""The log and the tables in a database, at one moment. Nothing is written."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

import psycopg
from psycopg.rows import dict_row, tuple_row

from coordinator.audit.entries import (
    Differing,
    Divergence,
    Entry,
    LogSource,
    StoredCheckpoint,
    StoredLeaves,
    StoredPayload,
)

APPLICATION: Final = "coordinator-audit"
PROJECTOR: Final = "projector"
ERASER: Final = "eraser"
_COLUMNS: Final = "originator_id, originator_version, topic, metadata, state"
_CHECKPOINTS: Final = (
    "SELECT c.origin, c.size, c.note FROM checkpoints c LEFT JOIN log_origins o ON o.origin = c.origin "
    "ORDER BY o.number, c.size"
)
_LEAVES: Final = "SELECT hashes, positions FROM merkle_tiles WHERE level = 0 AND tile = "
_PIECE: Final = 2000


class _Rows(Protocol):
    """One snapshot of a database; statements have `?` for values."""

    position_column: str

    def query(self, statement: str, *values: Any) -> Iterator[Sequence[Any]]: ...

    def named(self, statement: str, values: Sequence[str]) -> list[dict[str, Any]]:
        """Rows by column name; the one `?` takes a list."""


class DatabaseSource:
    """A `LogSource` that has tables, too."""

    def __init__(self, rows: _Rows, name: str) -> None:
        self._rows = rows
        self.name = name
        self._done = 0
        (head,) = next(rows.query(f"SELECT coalesce(max({rows.position_column}), 0) FROM stored_events"))  # noqa: S608
        self.total: int | None = int(head)

    def entries(self, after: int) -> Iterator[Entry]:
        position = self._rows.position_column
        statement = (
            f"SELECT {position}, {_COLUMNS} FROM stored_events "  # noqa: S608 - two names, both ours
            f"WHERE {position} > ? ORDER BY {position}"
        )
        for place, stream, version, topic, metadata, state in self._rows.query(statement, after):
            self._done = place
            yield _entry(place, stream, version, topic, metadata, state)

    def done(self) -> int:
        return self._done

    def checkpoints(self) -> Iterator[StoredCheckpoint]:
        for origin, size, note in self._rows.query(_CHECKPOINTS):
            # Of other types they are no checkpoint; -1 is no size.
            yield StoredCheckpoint(str(origin), size if isinstance(size, int) else -1, str(note))

    @property
    def tables(self) -> DatabaseSource:
        return self

    # --- tables --------------------------------------------------------------------------------------------
    def projected(self) -> int:
        return self._position(PROJECTOR)

    def erased_to(self) -> int:
        return self._position(ERASER)

    def _position(self, follower: str) -> int:
        found = next(self._rows.query("SELECT position FROM positions WHERE follower = ?", follower), (0,))
        return found[0] if isinstance(found[0], int) else 0

    def count(self, table: str) -> int:
        return int(next(self._rows.query(f"SELECT count(*) FROM {table}"))[0])  # noqa: S608 - ours

    def rows(self, table: str, key: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = self._rows.named(f"SELECT * FROM {table} WHERE {key} IN ?", keys)  # noqa: S608 - ours
        return {row[key]: row for row in found}

    def keys(self, table: str, key: str) -> Iterator[str]:
        for (value,) in self._rows.query(f"SELECT {key} FROM {table} ORDER BY {key}"):  # noqa: S608 - ours
            yield value

    def payloads(self, job_ids: Sequence[str]) -> list[StoredPayload]:
        ids = [UUID(job_id).hex for job_id in job_ids] if isinstance(self._rows, _Sqlite) else job_ids
        found = self._rows.named("SELECT job_id, kind, salt, body FROM payloads WHERE job_id IN ?", ids)
        return [
            StoredPayload(_uuid(r["job_id"]), r["kind"], _bytes(r["salt"]), _bytes(r["body"])) for r in found
        ]

    def leaves(self, tile: int) -> StoredLeaves:
        found = next(self._rows.query(f"{_LEAVES}?", tile), None)
        if found is None:
            return StoredLeaves(b"", ())
        hashes, positions = _bytes(found[0]), _bytes(found[1])
        if len(positions) % 8:
            return StoredLeaves(hashes or b"?", ())
        return StoredLeaves(hashes, struct.unpack(f">{len(positions) // 8}q", positions))

    def last_tile(self) -> int:
        (number,) = next(self._rows.query("SELECT coalesce(max(tile), -1) FROM merkle_tiles WHERE level = 0"))
        return int(number)


def _entry(position: int, stream: Any, version: Any, topic: Any, metadata: Any, state: Any) -> Entry:
    """The event of a row. SQLite keeps values of any type in any column. Raises Differing."""
    types = isinstance(version, int), isinstance(topic, str), *(type(v) is bytes for v in (metadata, state))
    try:
        if all(types):
            return Entry(position, _uuid(stream), version, topic, metadata, state)
    except (ValueError, TypeError, AttributeError):
        pass  # not a UUID
    raise Differing(Divergence(position, "event", "a column of the event has a value of another type"))


def _bytes(value: Any) -> bytes:
    """The bytes; none for a value of another type, which has no digest then."""
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def _uuid(stored: str | UUID) -> str:
    return str(stored) if isinstance(stored, UUID) else str(UUID(stored))


# --- SQLite ------------------------------------------------------------------------------------------------
class _Sqlite:
    position_column = "rowid"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, statement: str, *values: Any) -> Iterator[Sequence[Any]]:
        yield from self._connection.execute(statement, values)

    def named(self, statement: str, values: Sequence[str]) -> list[dict[str, Any]]:
        listed = statement.replace("IN ?", "IN (SELECT value FROM json_each(?))")
        cursor = self._connection.execute(listed, (json.dumps(values),))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


@contextmanager
def open_sqlite(path: Path) -> Iterator[LogSource]:
    """The log in a SQLite file; a coordinator may write it meanwhile."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only=ON")
        # Text that is not UTF-8 differs from what was written, and is no reason to stop.
        connection.text_factory = lambda text: text.decode(errors="replace")
        connection.execute("BEGIN")  # the first read takes the snapshot
        yield DatabaseSource(_Sqlite(connection), str(path))
    finally:
        connection.close()


# --- Postgres ----------------------------------------------------------------------------------------------
class _Postgres:
    position_column = "notification_id"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._cursors = 0

    def query(self, statement: str, *values: Any) -> Iterator[Sequence[Any]]:
        self._cursors += 1  # several may be open
        name = f"audit_{self._cursors}"
        with self._connection.cursor(name, row_factory=tuple_row) as cursor:
            cursor.itersize = _PIECE
            cursor.execute(statement.replace("?", "%s"), values, binary=True)
            yield from cursor

    def named(self, statement: str, values: Sequence[str]) -> list[dict[str, Any]]:
        kind = "uuid" if "payloads" in statement else "text"
        listed = statement.replace("IN ?", f"= ANY(%s::{kind}[])")
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(listed, (list(values),)).fetchall()


@contextmanager
def open_postgres(url: str) -> Iterator[LogSource]:
    """The log in a Postgres database; coordinators may write it meanwhile."""
    with psycopg.connect(url, application_name=APPLICATION) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield DatabaseSource(_Postgres(connection), connection.info.dbname)
