"""Moves a log from a database to a file, and from a file into an empty database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from coordinator import __version__
from coordinator.crypto.log.leaf import BadLeaf, hash_of
from coordinator.runtime.log_reader import open_log
from coordinator.runtime.modes.embedded import DATABASE_FILE
from coordinator.runtime.settings import Settings
from coordinator.storage.connections.data_directory import DataDirectory
from coordinator.storage.log.mapping import UnreadableEvent, check_metadata, decode
from coordinator.storage.migrate import migrate, read_migrations
from coordinator.storage.transfer.export_file import (
    BadExport,
    EventRow,
    ExportHeader,
    ExportWriter,
    TableRow,
    TableStart,
    read_export,
)
from coordinator.storage.transfer.source import LOG_TABLES, TransferSource, open_source
from coordinator.storage.transfer.target import PUBLISHER, Target, open_target

PIECE = 2000
"""Rows of one statement."""
PIECE_BYTES = 16_000_000
"""A statement with more bytes is sent before it has so many rows."""
LOG_IDENTITY = "log_identity"
Progress = Callable[[int, int], None]


class LogNotEmpty(Exception):
    """The target has a log already: name an empty database, or another data directory."""


class Transferred(NamedTuple):
    """The numbers of what was written, now and before an interruption."""

    events: int
    rows: int
    position: int


def export_log(settings: Settings, path: Path, *, whole: bool, progress: Progress) -> Transferred:
    """Write the log to a new file, or continue an interrupted one.

    `whole`: with payloads, results and all tables. `progress(position, head)`. Raises NoLog, LogUnavailable,
    BadExport for a file that can't be continued.
    """
    open_log(settings).close()  # an error without a log
    with open_source(database_of(settings)) as source:
        head, columns = source.head(), source.columns()
        identity = [str(log_id) for _, log_id in source.rows(LOG_IDENTITY, ["singleton", "log_id"])]
        header = ExportHeader("".join(identity), __version__, whole, [m.name for m in read_migrations()])
        begun = path.exists()
        with ExportWriter.reopen(path, header) if begun else ExportWriter(path, header) as writer:
            for number, row in enumerate(source.events(writer.position)):
                writer.event(row)
                if number % 1000 == 0:
                    progress(row.position, head)
            for table, names in columns.items():
                if table != LOG_IDENTITY and (whole or table in LOG_TABLES):
                    _write_table(source, writer, table, names)
            writer.finish()
            return Transferred(writer.events, writer.rows, writer.position)


def import_log(settings: Settings, path: Path, progress: Progress) -> Transferred:
    """Read a file into an empty database, whole or not at all. `progress(done, total)` counts bytes.

    Raises LogNotEmpty, BadExport, DataDirectoryInUse, LogUnavailable.
    """
    with target_of(settings) as target:
        if not target.empty():
            raise LogNotEmpty(LogNotEmpty.__doc__)
        filling = Filling(target)
        for item in read_export(path, progress):
            filling.take(item)
        return filling.finish()


class Filling:
    """Takes the items of an export one by one, and writes them in pieces."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._known = target.columns()
        self._cleared: set[str] = set()
        """The tables whose rows are those of the file alone: a backup names a table once for each part."""
        self._header: ExportHeader | None = None
        self._events: list[EventRow] = []
        self._table: TableStart | None = None
        self._rows: list[TableRow] = []
        self._size = 0
        """Of what waits, in bytes."""
        self._count = Transferred(0, 0, 0)

    def take(self, item: ExportHeader | EventRow | TableStart | TableRow) -> None:
        match item:
            case ExportHeader():
                self._begin(item)
            case EventRow():
                self._check(item)
                self._events.append(item)
                self._size += len(item.state) + len(item.metadata)
                if len(self._events) == PIECE or self._size > PIECE_BYTES:
                    self._write_events()
            case TableStart():
                self._write_rows()
                self._start(item)
            case TableRow():
                self._rows.append(item)
                self._size += sum(len(value) for value in item.values if isinstance(value, str | bytes))
                if len(self._rows) == PIECE or self._size > PIECE_BYTES:
                    self._write_rows()

    def finish(self) -> Transferred:
        self._write_events()
        self._write_rows()
        assert self._header is not None
        if self._count.position:
            self._target.finish(self._count.position)
        if not self._header.whole:
            # Its events were published where the log comes from; a new broker gets those that follow.
            self._target.rows("positions", ["follower", "position"], [(PUBLISHER, self._count.position)])
        return self._count

    def _begin(self, header: ExportHeader) -> None:
        if header.after:
            raise BadExport("it is a part of a backup: `coordinator restore` reads the whole folder")
        ours = [migration.name for migration in read_migrations()]
        if header.whole and list(header.migrations) != ours:
            raise BadExport(
                f"its tables are those of version {header.program}: import it with that version, or export "
                "it without --whole"
            )
        self._header = header
        self._target.clear(LOG_IDENTITY)
        if header.log_id:
            self._target.rows(LOG_IDENTITY, ["singleton", "log_id"], [(1, header.log_id)])

    def _check(self, row: EventRow) -> None:
        try:
            decode(row.topic, row.state)
            check_metadata(row.metadata)
            hash_of(row.position, str(row.stream), row.version, row.topic, row.metadata, row.state)
        except (UnreadableEvent, BadLeaf) as error:
            raise BadExport(f"position {row.position}: {error}") from None

    def _start(self, table: TableStart) -> None:
        if table.name == LOG_IDENTITY or set(self._known.get(table.name, ())) != set(table.columns):
            raise BadExport(f"this version has no table {table.name!r} with these columns")
        if table.name not in self._cleared:
            self._cleared.add(table.name)
            self._target.clear(table.name)
        self._table = table

    def _write_events(self) -> None:
        if self._events:
            try:
                self._target.events(self._events)
            except ValueError as error:
                raise BadExport(f"an event does not fit the log: {error}") from None
            last = self._events[-1].position
            self._count = Transferred(self._count.events + len(self._events), self._count.rows, last)
            self._events, self._size = [], 0

    def _write_rows(self) -> None:
        if not self._rows:
            return
        if self._table is None:
            raise BadExport("a row without a table")
        name, columns = self._table
        try:
            self._target.rows(name, columns, [row.values for row in self._rows])
        except ValueError as error:
            raise BadExport(f"a row does not fit its table: {error}") from None
        self._count = self._count._replace(rows=self._count.rows + len(self._rows))
        self._rows, self._size = [], 0


def _write_table(source: TransferSource, writer: ExportWriter, table: str, columns: Sequence[str]) -> None:
    writer.table(table, columns)
    for row in source.rows(table, columns):
        writer.row(row)


def database_of(settings: Settings) -> str | Path:
    """The database of these settings: a URL, or a file."""
    if settings.mode == "standard":
        assert settings.database_url is not None
        return settings.database_url.get_secret_value()
    return settings.data_dir / DATABASE_FILE


@contextmanager
def target_of(settings: Settings) -> Iterator[Target]:
    """The database of these settings, migrated, in one transaction. Raises DataDirectoryInUse, "
    "LogUnavailable."""
    database = database_of(settings)
    if settings.mode == "standard":
        migrate(database)
        with open_target(database) as target:
            yield target
        return
    with DataDirectory(settings.data_dir):
        migrate(database)
        with open_target(database) as target:
            yield target
