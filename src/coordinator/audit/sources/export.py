"""An exported file: lines of JSON, compressed with gzip (docs/export.md)."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson

from coordinator.audit.entries import BadSource, Entry, LogSource, StoredCheckpoint

FORMAT: Final = "coordinator log 1"
MAX_LINE: Final = 16 * 2**20
MAX_POSITION: Final = 2**63 - 1
MAX_CHECKPOINTS: Final = 100_000
"""A log of ours keeps a few of each order of magnitude."""


class BadFile(BadSource):
    """The file is no whole export of a log."""


class ExportSource:
    """A `LogSource` without tables: an auditor looks at a copy's tables in its database."""

    tables = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.total: int | None = path.stat().st_size
        self._path = path
        self._done = 0

    def done(self) -> int:
        return self._done

    def entries(self, after: int) -> Iterator[Entry]:
        for line in self._lines():
            if line[0] != "event":
                continue
            entry = _entry(line)
            if entry.position > after:
                yield entry

    def checkpoints(self) -> Iterator[StoredCheckpoint]:
        tables: dict[str, list[dict[str, Any]]] = {"checkpoints": [], "log_origins": []}
        wanted, columns = None, list[str]()
        for line in self._lines():
            if line[0] == "table":
                name, columns = _table(line)
                wanted = tables.get(name)
            elif line[0] == "row" and wanted is not None:
                if len(line) != len(columns) + 1 or len(wanted) >= MAX_CHECKPOINTS:
                    raise BadFile("the rows do not fit their table")
                wanted.append(dict(zip(columns, line[1:], strict=True)))
        numbers = {str(row.get("origin")): _size(row.get("number")) for row in tables["log_origins"]}
        found = [
            StoredCheckpoint(str(row.get("origin")), _size(row.get("size")), str(row.get("note")))
            for row in tables["checkpoints"]
        ]
        yield from sorted(found, key=lambda c: (numbers.get(c.origin, 0), c.size))

    def _lines(self) -> Iterator[list[Any]]:
        digest, ended, first = hashlib.sha256(), False, True
        try:
            with self._path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as file:
                while line := file.readline(MAX_LINE + 1):
                    self._done = raw.tell()
                    read = orjson.loads(line)
                    if not isinstance(read, list) or not read or ended:
                        raise BadFile("an invalid line")
                    if first and (read[0] != "log" or read[1].get("format") != FORMAT):
                        raise BadFile(f"the format is not {FORMAT!r}")
                    first = False
                    if read[0] == "end":
                        ended = True
                        if read[1].get("sha256") != digest.hexdigest():
                            raise BadFile("the file was changed: its last line has another digest")
                        continue
                    digest.update(line)
                    yield read
        except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadFile(f"the file is cut off or damaged: {error}") from None
        if not ended:
            raise BadFile("the file is cut off: its last line is missing")


def _entry(line: list[Any]) -> Entry:
    try:
        match line:
            case [_, int(position), str(stream), int(version), str(topic), str(metadata), str(state)]:
                # true is an integer, too.
                if type(position) is type(version) is int and 1 <= position <= MAX_POSITION:
                    named = str(UUID(stream))
                    return Entry(position, named, version, topic, metadata.encode(), state.encode())
    except ValueError:
        pass  # not a UUID
    raise BadFile("an invalid event")


def _table(line: list[Any]) -> tuple[str, list[str]]:
    match line:
        case [_, str(name), list(columns)] if all(isinstance(column, str) for column in columns):
            return name, columns
    raise BadFile("an invalid table")


def _size(value: Any) -> int:
    return value if type(value) is int else -1


@contextmanager
def open_export(path: Path) -> Iterator[LogSource]:
    """The log in a file that `coordinator log export` wrote."""
    yield ExportSource(path)
