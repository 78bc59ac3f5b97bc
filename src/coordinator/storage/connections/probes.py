"""Probes of the database: small writes that are no events, to learn whether an append would succeed now.

Each needs new space on the disk, as an append does, and gives it back. Raises LogUnavailable with the reason.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from coordinator.application.ports import LogUnavailable
from coordinator.storage.connections.postgres_pool import connection_arguments
from coordinator.storage.connections.sqlite_file import SqliteFile

PROBE_APPLICATION = "coordinator-probe"
PROBE_BYTES = 64 * 1024
LOW_SPACE_BYTES, LOW_SPACE_SHARE = 64 * 2**20, 0.02
"""Less free space than both is too little for a coordinator at work."""

# A temporary table that every commit empties: no row, no page and no entry of a catalogue is left behind.
_SET_UP = """
SET statement_timeout = '2s';
SET lock_timeout = '1s';
CREATE TEMP TABLE IF NOT EXISTS coordinator_probe (body text) ON COMMIT DELETE ROWS;
ALTER TABLE coordinator_probe ALTER COLUMN body SET STORAGE EXTERNAL
"""
_FILL = "INSERT INTO coordinator_probe SELECT repeat('x', 8000) FROM generate_series(1, %s)"
# The write-ahead log takes it, so the commit waits for the disk.
_COMMIT = "SELECT pg_logical_emit_message(true, 'coordinator', 'probe')"


def check_space(folder: Path, name: str) -> None:
    """Raises LogUnavailable if the disk of `folder`, which `name` tells, is read-only or nearly full."""
    space = os.statvfs(folder)
    free, size = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    if space.f_flag & os.ST_RDONLY:
        raise LogUnavailable(f"the disk of {name} is read-only")
    if free < min(LOW_SPACE_BYTES, LOW_SPACE_SHARE * size):
        raise LogUnavailable(f"the disk of {name} is full ({free // 2**20} MiB left)")


class PostgresProbe:
    """Call it in one thread. It has a connection of its own: a busy pool is no fault."""

    def __init__(self, url: str) -> None:
        self._arguments = connection_arguments(url, PROBE_APPLICATION)
        self._connection: Connection[Any] | None = None

    def __call__(self) -> None:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(**self._arguments, autocommit=True)
                self._connection.execute(_SET_UP)
            with self._connection.transaction():
                self._connection.execute(_FILL, (PROBE_BYTES // 8000,))
                self._connection.execute(_COMMIT)
        except psycopg.Error as error:
            self.close()
            raise LogUnavailable(f"the database accepts no writes now: {error}") from error

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class SqliteProbe:
    """A page while all is well, so that an idle coordinator writes little; more after a failure."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile.open(path)
        self._failed = False
        self._closed = False

    def __call__(self) -> None:
        try:
            with self._file.writing(durable=False) as connection:
                connection.execute("PRAGMA user_version = 1")
                if self._failed:
                    connection.execute("CREATE TABLE IF NOT EXISTS probe (body bytea)")
                    connection.execute("INSERT INTO probe VALUES (randomblob(?))", (PROBE_BYTES,))
                    connection.execute("DROP TABLE probe")
        except (LogUnavailable, sqlite3.Error) as error:
            self._failed = True
            if isinstance(error, LogUnavailable):
                raise
            raise LogUnavailable(f"the database file can't be used: {error}") from error
        self._failed = False

    def close(self) -> None:
        """May be called twice."""
        if not self._closed:
            self._closed = True
            self._file.close()
