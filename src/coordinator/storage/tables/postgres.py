"""The derived tables in the log's Postgres database."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import Connection
from psycopg.adapt import Loader
from psycopg.rows import DictRow, dict_row
from psycopg.types.numeric import Int8Dumper

from coordinator.application.ports import LogUnavailable, PositionMoved, Row
from coordinator.storage.connections.postgres_arrays import Column
from coordinator.storage.connections.postgres_pool import new_pool, set_up
from coordinator.storage.tables.statements import SQL_DIRECTORY, SqlStatements, load_statements
from coordinator.storage.tables.table_schemas import TableSchema, TableSchemas

POOL_SIZE = 10
DATABASE_APPLICATION = "coordinator-tables"

_POSITION = "SELECT position FROM positions WHERE follower = %s"
_MOVE = (
    "UPDATE positions SET position = %b::bigint "
    "WHERE follower = %b::text AND position = %b::bigint RETURNING 1"
)
_START = (
    "INSERT INTO positions (position, follower) VALUES (%b::bigint, %b::text) ON CONFLICT (follower) "
    "DO UPDATE SET position = excluded.position WHERE positions.position = %b::bigint RETURNING 1"
)
_READ_SCHEMAS = """
SELECT c.relname AS table, a.attname AS column, format_type(a.atttypid, NULL) AS type,
       array_position(i.indkey::smallint[], a.attnum) AS place
FROM pg_class c
JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid) AND c.relnamespace <> 'pg_catalog'::regnamespace
ORDER BY c.relname, a.attnum
"""


class PostgresDatabase:
    """A `Database` at `url`; `migrate` has made its tables.

    Unless `durable`, a crash of the server may lose whole transactions, the last ones first. That suits
    followers: their positions are lost too, so they read the same events again.
    """

    def __init__(self, url: str, sql: Path = SQL_DIRECTORY, *, durable: bool = True) -> None:
        self._statements = load_statements(sql)
        self._pool = new_pool(
            url,
            DATABASE_APPLICATION,
            max_size=POOL_SIZE,
            configure=_set_up if durable else _set_up_derived,
            row_factory=dict_row,
        )
        self._schemas = TableSchemas()
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[PostgresTables]:
        if self._closed:
            raise LogUnavailable("the database was closed")
        try:
            self._pool.open()
            with self._pool.connection() as connection, ExitStack() as stack:
                tables = PostgresTables(connection, self._schemas, self._statements, stack)
                yield tables
                tables.finish()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise LogUnavailable(f"the database can't be reached: {error}") from error
        except psycopg.InternalError as error:
            # Class 25: the session is read-only (a full disk, a demoted server) or was idle for too long.
            # Both pass; the statement itself is not at fault.
            if (error.sqlstate or "").startswith("25"):
                raise LogUnavailable(f"the database accepts no writes now: {error}") from error
            raise

    def close(self) -> None:
        self._closed = True
        self._pool.close()


class PostgresTables:
    """The tables in one transaction.

    Writes are gathered and sent as one statement: a follower's batch is one round trip, and a transaction
    by itself. A query, or another write of the same row, sends them sooner and opens a transaction around
    the rest. Reads alone need no transaction: under READ COMMITTED they see the same without one.

    A process that freezes half-way holds no locks either: the server begins when it has the whole statement.
    """

    def __init__(
        self,
        connection: Connection[DictRow],
        schemas: TableSchemas,
        statements: SqlStatements,
        stack: ExitStack,
    ) -> None:
        self._connection = connection
        self._schemas = schemas
        self._statements = statements
        self._stack = stack
        self._open = False
        self._gathered: list[tuple[str, Sequence[Any]]] = []
        self._touched: dict[str, set[Any]] = {}
        """Keys of the rows that the gathered writes touch."""
        self._move: tuple[str, int] | None = None

    def put(self, table: str, rows: Sequence[Row]) -> None:
        if not rows:
            return
        schema = self._schema(table)
        arrays, values = _arrays(schema, dict(zip(schema.types, schema.by_column(rows), strict=True)))
        sql = schema.upsert(f"SELECT * FROM unnest({arrays})")  # noqa: S608 - types from the catalogue
        self._gather(table, set(schema.keys_of(rows)), sql, values)

    def change(self, table: str, rows: Mapping[str, Row]) -> None:
        if not rows:
            return
        schema = self._schema(table)
        columns = schema.changes_by_column(rows)
        arrays, values = _arrays(schema, columns)
        key, *others = columns
        updates = ", ".join(f"{c} = changed.{c}" for c in others)
        sql = (
            f"UPDATE {table} SET {updates} "  # noqa: S608 - names from the catalogue
            f"FROM unnest({arrays}) AS changed ({', '.join(columns)}) WHERE {table}.{key} = changed.{key}"
        )
        self._gather(table, set(rows), sql, values)

    def remove(self, table: str, keys: Collection[str]) -> None:
        if not keys:
            return
        key = self._schema(table).one_key()
        sql = f"DELETE FROM {table} WHERE {key} = ANY(%b::text[])"  # noqa: S608 - names from the catalogue
        self._gather(table, set(keys), sql, [Column("text", list(keys))])

    @contextmanager
    def refill(self, tables: Collection[str]) -> Iterator[None]:
        """The indexes stay: without them, readers of the old rows would have to wait."""
        self._send()
        for table in tables:
            self._writing().execute(cast("Any", f"DELETE FROM {table}"))  # noqa: S608 - names of ours
        yield

    def query(self, statement: str, **params: Any) -> list[dict[str, Any]]:
        named = self._statements[statement]
        self._send()
        connection = self._writing() if named.writes else self._connection
        return connection.execute(cast("Any", named.postgres), named.postgres_parameters(params)).fetchall()

    def execute(self, statement: str, **params: Any) -> int:
        named = self._statements[statement]
        self._send()
        cursor = self._writing().execute(cast("Any", named.postgres), named.postgres_parameters(params))
        return cursor.rowcount

    def position(self, follower: str) -> int:
        self._send()
        row = self._connection.execute(_POSITION, (follower,)).fetchone()
        return row["position"] if row else 0

    def move(self, follower: str, before: int, after: int) -> None:
        if self._move:
            self._send()
        self._move = (follower, before)
        self._gathered.insert(0, (_MOVE if before else _START, (after, follower, before)))

    def finish(self) -> None:
        """Send the remaining writes; the end of the `with` commits them. Raises PositionMoved."""
        self._send(last=True)

    def _gather(self, table: str, keys: set[Any], sql: str, values: Sequence[Any]) -> None:
        touched = self._touched.setdefault(table, set())
        if not touched.isdisjoint(keys):  # parts of one statement do not see each other's writes
            self._send()
            touched = self._touched.setdefault(table, set())
        touched |= keys
        self._gathered.append((sql, values))

    def _send(self, *, last: bool = False) -> None:
        gathered, move = self._gathered, self._move
        self._gathered, self._touched, self._move = [], {}, None
        if not gathered:
            return
        # If another process has moved the position, a division by zero rolls everything back.
        result = "1 / count(*) FROM part0" if move else "1"
        parts = ", ".join(f"part{n} AS ({sql})" for n, (sql, _) in enumerate(gathered))
        sql = f"WITH {parts} SELECT {result}"
        connection = self._connection if last and not self._open else self._writing()
        try:
            connection.execute(cast("Any", sql), [v for _, vs in gathered for v in vs], prepare=True)
        except psycopg.errors.DivisionByZero:
            raise PositionMoved("{} is no longer at {}".format(*(move or ()))) from None

    def _writing(self) -> Connection[DictRow]:
        if not self._open:
            self._open = True
            self._stack.enter_context(self._connection.transaction())
        return self._connection

    def _schema(self, table: str) -> TableSchema:
        return self._schemas.of(table, lambda: read_schemas(self._connection))


def _arrays(schema: TableSchema, columns: Mapping[str, Sequence[Any]]) -> tuple[str, list[Column]]:
    """Arguments of `unnest`, and their values."""
    kinds = [schema.types[column] for column in columns]
    values = [Column(kind, column) for kind, column in zip(kinds, columns.values(), strict=True)]
    return ", ".join(f"%b::{kind}[]" for kind in kinds), values


def read_schemas(connection: Connection[DictRow]) -> Mapping[str, TableSchema]:
    """All tables that have a key."""
    columns: dict[str, list[DictRow]] = {}
    for row in connection.execute(_READ_SCHEMAS).fetchall():
        columns.setdefault(row["table"], []).append(row)
    schemas = {}
    for table, rows in columns.items():
        key = sorted((r for r in rows if r["place"] is not None), key=lambda r: int(r["place"]))
        schemas[table] = TableSchema(
            table, {r["column"]: r["type"] for r in rows}, tuple(r["column"] for r in key)
        )
    return schemas


class _NumberLoader(Loader):
    """Loads sums of integers as integers, as SQLite does; averages as floats."""

    def load(self, data: bytes | bytearray | memoryview) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


def _set_up(connection: Connection[Any]) -> None:
    set_up(connection)
    connection.adapters.register_dumper(int, Int8Dumper)  # else the type depends on the value
    connection.adapters.register_loader("numeric", _NumberLoader)


def _set_up_derived(connection: Connection[Any]) -> None:
    _set_up(connection)
    # These tables grow from empty to a million rows within minutes. Plans made while they were empty would
    # scan the whole table to find a row by its key (seen: 107 µs a job).
    connection.execute("SET synchronous_commit = off; SET enable_seqscan = off")
