"""A database as it was at one moment, read for an export."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID

import psycopg

from coordinator.application.ports import LogUnavailable
from coordinator.storage.connections.postgres_pool import connection_arguments
from coordinator.storage.migrate import is_postgres
from coordinator.storage.tables import postgres, sqlite
from coordinator.storage.transfer.export_file import EventRow

READ_ROWS = 2000
LOG_TABLES = ("log_origins", "checkpoints", "cosignatures")
"""The tables that belong to the log: they follow from nothing else, and hold nothing private."""
NOT_TABLES = frozenset({"stored_events", "schema_migrations", "sqlite_sequence"})
"""The log itself, and what belongs to one database."""
PAYLOADS, JOB_ID = "payloads", "job_id"
"""The one table besides the log with a UUID: SQLite keeps it as 32 hex digits, an export with hyphens."""
EXPORT_APPLICATION = "coordinator-export"


class TransferSource(Protocol):
    """One snapshot: whatever is written meanwhile is not in it."""

    def head(self) -> int:
        """The last position of the log."""

    def events(self, after: int) -> Iterator[EventRow]:
        """The events after this position, in order."""

    def columns(self) -> dict[str, Sequence[str]]:
        """The columns of each table."""

    def rows(
        self, table: str, columns: Sequence[str], *, beyond: tuple[str, int] | None = None
    ) -> Iterator[Sequence[Any]]:
        """All rows of a table; or those with more than this number in this column."""

    def payloads(self, columns: Sequence[str], kind: str, jobs: Sequence[UUID]) -> Iterator[Sequence[Any]]:
        """The rows of these jobs' payloads or results."""


@contextmanager
def open_source(target: str | Path) -> Iterator[TransferSource]:
    """The database at a URL, or in a file. Raises LogUnavailable."""
    with _postgres(str(target)) if is_postgres(target) else _sqlite(Path(target)) as source:
        yield source


class _Sqlite:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def head(self) -> int:
        return int(
            self._connection.execute("SELECT coalesce(max(rowid), 0) FROM stored_events").fetchone()[0]
        )

    def events(self, after: int) -> Iterator[EventRow]:
        rows = self._connection.execute(
            "SELECT rowid, originator_id, originator_version, topic, state, metadata FROM stored_events "
            "WHERE rowid > ? ORDER BY rowid",
            (after,),
        )
        for position, stream, version, topic, state, metadata in rows:
            yield EventRow(position, UUID(stream), version, topic, state, metadata)

    def columns(self) -> dict[str, Sequence[str]]:
        schemas = sqlite.read_schemas(self._connection)
        return {name: list(s.types) for name, s in sorted(schemas.items()) if name not in NOT_TABLES}

    def rows(
        self, table: str, columns: Sequence[str], *, beyond: tuple[str, int] | None = None
    ) -> Iterator[Sequence[Any]]:
        statement, values = f"SELECT {', '.join(columns)} FROM {table}", list[int]()  # noqa: S608
        if beyond is not None:
            statement, values = f"{statement} WHERE {beyond[0]} > ?", [beyond[1]]
        rows = self._connection.execute(statement, values)
        yield from self._with_ids(columns, rows) if table == PAYLOADS else rows

    def payloads(self, columns: Sequence[str], kind: str, jobs: Sequence[UUID]) -> Iterator[Sequence[Any]]:
        statement = (
            f"SELECT {', '.join(columns)} FROM {PAYLOADS} "  # noqa: S608
            f"WHERE kind = ? AND {JOB_ID} IN (SELECT value FROM json_each(?))"
        )
        named = json.dumps([job.hex for job in jobs])
        yield from self._with_ids(columns, self._connection.execute(statement, (kind, named)))

    def _with_ids(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        place = columns.index(JOB_ID)
        for row in rows:
            yield [str(UUID(value)) if number == place else value for number, value in enumerate(row)]


@contextmanager
def _sqlite(path: Path) -> Iterator[TransferSource]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("BEGIN")  # the first read takes the snapshot
        yield _Sqlite(connection)
    except sqlite3.OperationalError as error:
        raise LogUnavailable(f"the database file can't be read: {error}") from error
    finally:
        connection.close()


class _Postgres:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def head(self) -> int:
        row = self._connection.execute(
            "SELECT coalesce(max(notification_id), 0) FROM stored_events"
        ).fetchone()
        assert row is not None
        return int(row["coalesce"])

    def events(self, after: int) -> Iterator[EventRow]:
        statement = (
            "SELECT notification_id, originator_id, originator_version, topic, state, metadata "
            "FROM stored_events WHERE notification_id > %s ORDER BY notification_id"
        )
        for row in self._each("export_events", statement, (after,)):
            position, stream, version, topic, state, metadata = row
            yield EventRow(position, stream, version, topic, bytes(state), bytes(metadata))

    def columns(self) -> dict[str, Sequence[str]]:
        schemas = postgres.read_schemas(self._connection)
        return {name: list(s.types) for name, s in sorted(schemas.items()) if name not in NOT_TABLES}

    def rows(
        self, table: str, columns: Sequence[str], *, beyond: tuple[str, int] | None = None
    ) -> Iterator[Sequence[Any]]:
        statement, values = f"SELECT {', '.join(columns)} FROM {table}", list[int]()  # noqa: S608
        if beyond is not None:
            statement, values = f"{statement} WHERE {beyond[0]} > %s", [beyond[1]]
        return self._each("export_rows", statement, values)

    def payloads(self, columns: Sequence[str], kind: str, jobs: Sequence[UUID]) -> Iterator[Sequence[Any]]:
        statement = (
            f"SELECT {', '.join(columns)} FROM {PAYLOADS} "  # noqa: S608
            f"WHERE kind = %s AND {JOB_ID} = ANY(%s::uuid[])"
        )
        return self._each("export_payloads", statement, (kind, list(jobs)))

    def _each(self, name: str, statement: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """The rows, fetched in pieces."""
        with self._connection.cursor(name, row_factory=psycopg.rows.tuple_row) as cursor:
            cursor.itersize = READ_ROWS
            yield from cursor.execute(cast("Any", statement), values, binary=True)


@contextmanager
def _postgres(url: str) -> Iterator[TransferSource]:
    try:
        arguments = connection_arguments(url, EXPORT_APPLICATION)
        with psycopg.connect(**arguments, row_factory=psycopg.rows.dict_row) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            yield _Postgres(connection)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise LogUnavailable(f"the database can't be read: {error}") from error
