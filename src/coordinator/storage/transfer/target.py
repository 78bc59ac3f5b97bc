"""An empty database that takes the content of an export, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID

import psycopg
from psycopg.sql import SQL, Identifier

from coordinator.application.ports import LogUnavailable
from coordinator.storage.connections.postgres_pool import APPEND_LOCK, LOCK_CLASS, connection_arguments
from coordinator.storage.connections.sqlite_file import SqliteFile
from coordinator.storage.migrate import is_postgres
from coordinator.storage.tables import postgres, sqlite
from coordinator.storage.transfer.export_file import EventRow
from coordinator.storage.transfer.source import JOB_ID, NOT_TABLES, PAYLOADS

IMPORT_APPLICATION = "coordinator-import"
PUBLISHER = "publisher"
_KINDS = {
    **dict.fromkeys(("bigint", "integer", "int8"), int),
    **dict.fromkeys(("text", "uuid"), str),
    **dict.fromkeys(("bytea", "blob"), bytes),
}


class Target(Protocol):
    """A transaction on one database; leaving it with an exception changes nothing."""

    def empty(self) -> bool:
        """Whether the log has no event."""

    def columns(self) -> dict[str, Sequence[str]]:
        """The columns of each table."""

    def events(self, rows: Iterable[EventRow]) -> None:
        """Add these events, at their positions. Raises ValueError for one whose place is taken."""

    def clear(self, table: str) -> None:
        """Remove all rows of a table."""

    def rows(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add rows to a table. Raises ValueError for rows that it does not take."""

    def finish(self, position: int) -> None:
        """The log ends at this position: the next event gets a later one."""


@contextmanager
def open_target(target: str | Path) -> Iterator[Target]:
    """The database at a URL, or in a file; `migrate` has made its tables. Raises LogUnavailable."""
    with _postgres(str(target)) if is_postgres(target) else _sqlite(Path(target)) as opened:
        yield opened


class _Sqlite:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def empty(self) -> bool:
        return self._connection.execute("SELECT 1 FROM stored_events LIMIT 1").fetchone() is None

    def columns(self) -> dict[str, Sequence[str]]:
        schemas = sqlite.read_schemas(self._connection)
        self._types = {name: s.types for name, s in schemas.items() if name not in NOT_TABLES}
        return {name: list(types) for name, types in self._types.items()}

    def events(self, rows: Iterable[EventRow]) -> None:
        try:
            self._connection.executemany(
                "INSERT INTO stored_events "
                "(rowid, originator_id, originator_version, topic, state, metadata) VALUES (?,?,?,?,?,?)",
                [(r.position, r.stream.hex, r.version, r.topic, r.state, r.metadata) for r in rows],
            )
        except sqlite3.IntegrityError as error:
            raise ValueError(str(error)) from None

    def clear(self, table: str) -> None:
        self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names from the catalogue

    def rows(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        _check_types(table, columns, self._types[table], rows)
        if table == PAYLOADS:
            rows = _with_ids(rows, [columns.index(JOB_ID)], lambda text: UUID(text).hex)
        try:
            self._connection.executemany(statement, rows)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, OverflowError) as error:
            raise ValueError(f"{table}: {error}") from None

    def finish(self, position: int) -> None:
        """AUTOINCREMENT has seen the positions."""


@contextmanager
def _sqlite(path: Path) -> Iterator[Target]:
    file = SqliteFile.open(path)
    try:
        with file.writing(durable=True) as connection:
            yield _Sqlite(connection)
    finally:
        file.close()


class _Postgres:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def empty(self) -> bool:
        return self._connection.execute("SELECT 1 AS one FROM stored_events LIMIT 1").fetchone() is None

    def columns(self) -> dict[str, Sequence[str]]:
        self._schemas = postgres.read_schemas(self._connection)
        return {name: list(s.types) for name, s in self._schemas.items() if name not in NOT_TABLES}

    def events(self, rows: Iterable[EventRow]) -> None:
        statement = (
            "COPY stored_events (notification_id, originator_id, originator_version, topic, state, metadata) "
            "FROM STDIN (FORMAT binary)"
        )
        try:
            self._copy(SQL(statement), ("int8", "uuid", "int8", "text", "bytea", "bytea"), rows)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise ValueError(str(error)) from None

    def clear(self, table: str) -> None:
        self._connection.execute(SQL("DELETE FROM {}").format(Identifier(table)))

    def rows(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        types = [self._schemas[table].types[column] for column in columns]
        statement = SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            Identifier(table), SQL(", ").join(map(Identifier, columns))
        )
        _check_types(table, columns, self._schemas[table].types, rows)
        places = [number for number, kind in enumerate(types) if kind == "uuid"]
        if places:
            rows = _with_ids(rows, places, UUID)
        try:
            self._copy(statement, types, rows)
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError) as error:
            raise ValueError(f"{table}: {error}") from None

    def finish(self, position: int) -> None:
        self._connection.execute(
            "SELECT setval(pg_get_serial_sequence('stored_events', 'notification_id'), %s)", (position,)
        )

    def _copy(self, statement: Any, types: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        with self._connection.cursor() as cursor, cursor.copy(cast("Any", statement)) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)


def _check_types(
    table: str, columns: Sequence[str], types: Mapping[str, str], rows: Sequence[Sequence[Any]]
) -> None:
    """Raise ValueError for a value of another type: SQLite would keep it, and psycopg has no word for it."""
    kinds = [_KINDS[types[column].lower()] for column in columns]
    for row in rows:
        for column, kind, value in zip(columns, kinds, row, strict=True):
            if value is not None and type(value) is not kind:
                raise ValueError(f"a value of {column} has another type")
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"a value of {column} is too large")


def _with_ids(
    rows: Sequence[Sequence[Any]], places: Sequence[int], read: Callable[[str], Any]
) -> list[Sequence[Any]]:
    """The rows with the ids at these places in the form of this database. Raises ValueError."""
    return [[read(str(v)) if n in places else v for n, v in enumerate(row)] for row in rows]


@contextmanager
def _postgres(url: str) -> Iterator[Target]:
    try:
        arguments = connection_arguments(url, IMPORT_APPLICATION)
        with psycopg.connect(**arguments, row_factory=psycopg.rows.dict_row) as connection:
            # The lock of all writers: a coordinator that was started meanwhile waits, and then finds the log.
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, APPEND_LOCK))
            yield _Postgres(connection)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise LogUnavailable(f"the database can't be written: {error}") from error
