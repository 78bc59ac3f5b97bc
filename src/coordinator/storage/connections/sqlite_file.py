"""One SQLite file in this process: its connections, and the one lock for all writers.

SQLite lets one connection write at a time and tells the others to try again later, which is slow and unfair.
So all writers of a process, of log and tables alike, queue for a lock of ours instead.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

from coordinator.application.ports import LogUnavailable
from coordinator.private_files import make_file

WRITE_LOCK_SECONDS = 10.0
BUSY_SECONDS = 5.0  # for other processes; the data directory's lock makes those rare
EMPTY_MILLIS = 200  # for which writers wait while an older reader keeps the write-ahead log
IDLE_READERS = 8
WRITER_CACHE_KIB = 32 * 1024
ROWS_AT_ONCE = 32  # in one statement
KEPT_STATEMENTS = 1000  # compiled, of one connection
CHECKPOINT_PAGES = 4000  # 16 MiB; with the default of 1000 appends in batches take 1.7 times as long


class SqliteFile:
    """Open one with `SqliteFile.open(path)`; every opener of a path shares one object. Thread-safe."""

    _opened: ClassVar[dict[Path, SqliteFile]] = {}
    _opening: ClassVar[Lock] = Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.on_append: set[Callable[[int], None]] = set()
        """Called with the log's last position after each append by this process."""
        self._users = 0
        self._write_lock = Lock()
        self._readers: list[sqlite3.Connection] = []
        self._writers: dict[bool, sqlite3.Connection] = {}

    @classmethod
    def open(cls, path: str | Path) -> SqliteFile:
        resolved = Path(path).resolve()
        with cls._opening:
            if resolved not in cls._opened and resolved.parent.is_dir():
                # SQLite gives the files beside it the same mode.
                make_file(resolved)
            file = cls._opened.setdefault(resolved, cls(resolved))
            file._users += 1
            return file

    def close(self) -> None:
        """End this use; the last user closes the connections. Call it once per `open`."""
        with self._opening:
            self._users -= 1
            if self._users > 0:
                return
            del self._opened[self.path]
        with self._write_lock:
            connections = [*self._readers, *self._writers.values()]
            self._readers, self._writers = [], {}
        for connection in connections:
            connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with; each statement sees everything committed before it."""
        with _errors():
            self._check_open()
            connection = self._idle_reader() or self._connect("query_only=ON")
            try:
                yield connection
            except BaseException:
                connection.close()  # its state is unknown
                raise
            if len(self._readers) < IDLE_READERS and self._users > 0:
                self._readers.append(connection)
            else:
                connection.close()

    @contextmanager
    def writing(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """The only write transaction at this time: committed at the end, rolled back by an exception.

        `durable`: on disk before this returns. Other transactions survive the death of the process. A power
        cut may take them, the newest first, but none from before a durable one.
        """
        if not self._write_lock.acquire(timeout=WRITE_LOCK_SECONDS):
            raise LogUnavailable(f"another transaction has been writing for {WRITE_LOCK_SECONDS:.0f} s")
        try:
            with _errors():
                self._check_open()
                connection = self._writers.get(durable)
                if connection is None:
                    connection = self._writers[durable] = self._connect(
                        f"synchronous={'FULL' if durable else 'NORMAL'}",
                        "secure_delete=ON",  # erased data is overwritten, not only unlinked
                        f"cache_size=-{WRITER_CACHE_KIB}",
                        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
                    )
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        finally:
            self._write_lock.release()

    def empty_wal(self) -> bool:
        """Move the write-ahead log into the file and cut it off: it has older states of the file's pages.

        False if a reader of an older state stands in the way.
        """
        with _errors():
            self._check_open()
            connection = self._connect(f"busy_timeout={EMPTY_MILLIS}")
            try:
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.close()
        return int(busy) == 0

    def _check_open(self) -> None:
        if self._users <= 0:
            raise LogUnavailable("the database file was closed")

    def _idle_reader(self) -> sqlite3.Connection | None:
        try:
            return self._readers.pop()
        except IndexError:
            return None

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=KEPT_STATEMENTS,
        )
        try:
            for pragma in ("journal_mode=WAL", *pragmas):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection


def execute_rows(
    connection: sqlite3.Connection, statement: Callable[[str], str], rows: Sequence[Sequence[Any]]
) -> int | None:
    """Execute `statement(values)` with a few rows at a time; `values` is `VALUES (?, …), …`.

    The driver lets go of the interpreter's lock in each statement, and has it back when the event loop rests,
    which takes longer than the statement. Returns the id of the last row that was inserted.
    """
    last, done, count = None, 0, ROWS_AT_ONCE
    while done < len(rows):
        while count > len(rows) - done:
            count //= 2  # a power of two: a few statements serve all numbers of rows
        some = rows[done : done + count]
        marks = f"({', '.join('?' * len(some[0]))})"
        values = f"VALUES {', '.join([marks] * count)}"
        last = connection.execute(statement(values), [value for row in some for value in row]).lastrowid
        done += count
    return last


@contextmanager
def _errors() -> Iterator[None]:
    """Raise LogUnavailable if the file is locked, full or unreadable; a wrong statement keeps its error."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise
        raise LogUnavailable(f"the database file can't be used: {error}") from error
