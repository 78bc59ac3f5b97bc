"""Migrations: the event log's own tables, then each `migrations/*.sql` once, in the order of their names.

Any number of processes may call `migrate` at the same time: one does the work, the others wait.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import psycopg
from eventsourcing.persistence import PersistenceError

from coordinator.application.ports import LogUnavailable
from coordinator.storage.connections.postgres_pool import LOCK_CLASS, MIGRATE_LOCK, connection_arguments
from coordinator.storage.connections.sqlite_file import SqliteFile
from coordinator.storage.log.postgres_recorder import PostgresLogDatastore, PostgresRecorder
from coordinator.storage.log.sqlite import SqliteDatastore, SqliteRecorder

MIGRATIONS_DIRECTORY = Path(__file__).parent / "migrations"
MIGRATION_TIMEOUT = "10min"
MIGRATE_APPLICATION = "coordinator-migrate"

_CREATE_APPLIED = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY, digest text NOT NULL, applied_at bigint NOT NULL
)
"""
_READ_APPLIED = "SELECT name, digest FROM schema_migrations"
_CHECK_LOG = "SELECT metadata FROM stored_events LIMIT 0"
_OLD_LOG = (
    "this log was written by a version before 0.1, without event metadata; "
    "start with an empty data directory or database"
)


class MigrationChanged(Exception):
    """The text of an applied migration has changed: restore it, and put the change into a new migration."""


class UnfitDatabase(Exception):
    """This database can't hold a log; the message says which one can."""


class Migration(NamedTuple):
    name: str
    sql: str
    digest: str


def is_postgres(target: str | Path) -> bool:
    """Whether this names a Postgres database rather than a SQLite file."""
    return str(target).startswith(("postgresql://", "postgres://"))


def migrate(target: str | Path, directory: Path = MIGRATIONS_DIRECTORY) -> list[str]:
    """Bring the database (a URL, or the path of a SQLite file) up to date.

    Returns the names of the migrations applied now. Raises MigrationChanged, LogUnavailable, UnfitDatabase.
    """
    migrations = read_migrations(directory)
    return (
        _migrate_postgres(str(target), migrations)
        if is_postgres(target)
        else _migrate_sqlite(Path(target), migrations)
    )


def read_migrations(directory: Path = MIGRATIONS_DIRECTORY) -> list[Migration]:
    """All migrations in order."""
    found = []
    for file in sorted(directory.glob("*.sql")):
        sql = file.read_text(encoding="utf-8")
        found.append(Migration(file.stem, sql, hashlib.sha256(sql.encode()).hexdigest()))
    return found


def _pending(migrations: Iterable[Migration], applied: Mapping[str, str]) -> Iterator[Migration]:
    for migration in migrations:
        before = applied.get(migration.name)
        if before is None:
            yield migration
        elif before != migration.digest:
            raise MigrationChanged(
                f"{migration.name} was applied with another text; restore it, and add a new migration"
            )


def _migrate_sqlite(path: Path, migrations: list[Migration]) -> list[str]:
    done = []
    file = SqliteFile.open(path)
    try:
        with file.writing(durable=True) as connection:
            for create in SqliteRecorder(SqliteDatastore(file)).create_table_statements:
                connection.execute(create)
            try:
                connection.execute(_CHECK_LOG)
            except sqlite3.OperationalError:
                raise MigrationChanged(_OLD_LOG) from None
            connection.execute(_CREATE_APPLIED)
            for migration in _pending(migrations, dict(connection.execute(_READ_APPLIED).fetchall())):
                for statement in _split(migration.sql):
                    connection.execute(statement)
                connection.execute("INSERT INTO schema_migrations VALUES (?, ?, ?)", _applied(migration))
                done.append(migration.name)
    finally:
        file.close()
    return done


def _migrate_postgres(url: str, migrations: list[Migration]) -> list[str]:
    done = []
    with (
        _errors(),
        psycopg.connect(**connection_arguments(url, MIGRATE_APPLICATION), autocommit=True) as connection,
    ):
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise UnfitDatabase(
                f"the database's encoding is {encoding}, which can't hold every text:"
                " make another one, with `CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0`"
            )
        connection.execute(f"SET lock_timeout = '{MIGRATION_TIMEOUT}'")
        # The session holds the lock: the library creates its tables through a connection of its own.
        connection.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, MIGRATE_LOCK))
        datastore = PostgresLogDatastore(url)
        try:
            PostgresRecorder(datastore).create_table()
        finally:
            datastore.close()
        try:
            connection.execute(_CHECK_LOG)
        except psycopg.errors.UndefinedColumn:
            raise MigrationChanged(_OLD_LOG) from None
        connection.execute(_CREATE_APPLIED)
        for migration in _pending(migrations, dict(connection.execute(_READ_APPLIED).fetchall())):
            with connection.transaction():
                connection.execute(cast("Any", migration.sql))
                connection.execute("INSERT INTO schema_migrations VALUES (%s, %s, %s)", _applied(migration))
            done.append(migration.name)
    return done


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, PersistenceError) as error:
        raise LogUnavailable(f"the database can't be migrated: {error}") from error


def _applied(migration: Migration) -> tuple[str, str, int]:
    return migration.name, migration.digest, time.time_ns() // 1_000_000


def _split(sql: str) -> Iterator[str]:
    """The statements of a script, one by one: sqlite3's `executescript` commits first."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip() and not all(
        line.strip().startswith("--") for line in statement.splitlines() if line.strip()
    ):
        yield statement
