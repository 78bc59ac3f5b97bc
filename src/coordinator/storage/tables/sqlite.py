"""The derived tables in the log's SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from coordinator.application.ports import PositionMoved, Row
from coordinator.storage.connections.sqlite_file import SqliteFile, execute_rows
from coordinator.storage.tables.statements import SQL_DIRECTORY, SqlStatements, load_statements
from coordinator.storage.tables.table_schemas import TableSchema, TableSchemas

_PLAIN_INDEXES = """
SELECT i.name, m.sql FROM pragma_index_list(?) AS i JOIN sqlite_master AS m ON m.name = i.name
WHERE i.origin = 'c' AND NOT i."unique"
"""


class SqliteDatabase:
    """A `Database` in the SQLite file `path`; `migrate` has made its tables.

    Commits survive the death of the process. A power cut may take the newest ones: followers then repeat them
    from the log, whose commits are durable.
    """

    def __init__(self, path: str | Path, sql: Path = SQL_DIRECTORY) -> None:
        self._statements = load_statements(sql)
        self._file = SqliteFile.open(path)
        self._schemas = TableSchemas()
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[SqliteTables]:
        with ExitStack() as stack:
            yield SqliteTables(self._file, self._schemas, self._statements, stack)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._file.close()


class SqliteTables:
    """The tables in one transaction.

    It begins with the first write. Until then each read sees everything committed before it and blocks
    nobody, as in Postgres (READ COMMITTED).
    """

    def __init__(
        self, file: SqliteFile, schemas: TableSchemas, statements: SqlStatements, stack: ExitStack
    ) -> None:
        self._file = file
        self._schemas = schemas
        self._statements = statements
        self._stack = stack
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None

    def put(self, table: str, rows: Sequence[Row]) -> None:
        if not rows:
            return
        schema = self._schema(table)
        values = list(zip(*schema.by_column(rows), strict=True))
        execute_rows(self._writing(), schema.upsert, values)

    def change(self, table: str, rows: Mapping[str, Row]) -> None:
        if not rows:
            return
        columns = self._schema(table).changes_by_column(rows)
        key, *others = columns
        updates = ", ".join(f"{c} = changed.column{n}" for n, c in enumerate(others, start=2))
        execute_rows(
            self._writing(),
            lambda values: (
                f"UPDATE {table} SET {updates} FROM ({values}) AS changed "  # noqa: S608 - names from the catalogue
                f"WHERE {table}.{key} = changed.column1"
            ),
            list(zip(*columns.values(), strict=True)),
        )

    def remove(self, table: str, keys: Collection[str]) -> None:
        if not keys:
            return
        key = self._schema(table).one_key()
        self._writing().execute(
            f"DELETE FROM {table} WHERE {key} IN (SELECT value FROM json_each(?))",  # noqa: S608
            (json.dumps(list(keys)),),
        )

    @contextmanager
    def refill(self, tables: Collection[str]) -> Iterator[None]:
        """The indexes are made when the rows are there: sorted, in a third of the time and with few pages."""
        connection = self._writing()
        indexes: list[str] = []
        for table in tables:
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours
            for name, sql in connection.execute(_PLAIN_INDEXES, (table,)).fetchall():
                connection.execute(f"DROP INDEX {name}")
                indexes.append(sql)
        yield
        for sql in indexes:
            connection.execute(sql)

    def query(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        named = self._statements[statement]
        connection = self._writing() if named.writes else self._reading()
        cursor = connection.execute(named.sqlite, named.sqlite_parameters(params))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def execute(self, statement: str, **params: Any) -> int:
        named = self._statements[statement]
        return self._writing().execute(named.sqlite, named.sqlite_parameters(params)).rowcount

    def position(self, follower: str) -> int:
        row = (
            self._reading()
            .execute("SELECT position FROM positions WHERE follower = ?", (follower,))
            .fetchone()
        )
        return row[0] if row else 0

    def move(self, follower: str, before: int, after: int) -> None:
        connection = self._writing()
        moved = connection.execute(
            "UPDATE positions SET position = ? WHERE follower = ? AND position = ?", (after, follower, before)
        ).rowcount
        if not moved and before == 0:
            moved = connection.execute(
                "INSERT INTO positions (follower, position) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (follower, after),
            ).rowcount
        if not moved:
            raise PositionMoved(f"{follower} is no longer at {before}")

    def _schema(self, table: str) -> TableSchema:
        return self._schemas.of(table, lambda: read_schemas(self._reading()))

    def _reading(self) -> sqlite3.Connection:
        if self._writer is not None:
            return self._writer
        if self._reader is None:
            self._reader = self._stack.enter_context(self._file.reading())
        return self._reader

    def _writing(self) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = self._stack.enter_context(self._file.writing(durable=False))
        return self._writer


def read_schemas(connection: sqlite3.Connection) -> Mapping[str, TableSchema]:
    """All tables that have a key."""
    schemas = {}
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        columns = connection.execute("SELECT name, type, pk FROM pragma_table_info(?)", (table,)).fetchall()
        key = tuple(name for name, _, place in sorted(columns, key=lambda c: c[2]) if place)
        if key:
            schemas[table] = TableSchema(table, {name: kind for name, kind, _ in columns}, key)
    return schemas
