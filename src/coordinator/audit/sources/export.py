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

from coordinator.audit.entries import BadSource, Entry, Source, StoredCheckpoint

FORMAT: Final = "coordinator log 1"
MAX_LINE: Final = 16 * 2**20


class BadFile(BadSource):
    """The file is no whole export of a log."""


class ExportSource:
    """A `Source` without tables: an auditor looks at a copy's tables in its database."""

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
            _, position, stream, version, topic, metadata, state = line
            if position > after:
                yield Entry(position, str(UUID(stream)), version, topic, metadata.encode(), state.encode())

    def checkpoints(self) -> Iterator[StoredCheckpoint]:
        tables: dict[str, list[dict[str, Any]]] = {"checkpoints": [], "log_origins": []}
        name, columns = "", list[str]()
        for line in self._lines():
            if line[0] == "table":
                name, columns = line[1], line[2]
            elif line[0] == "row" and name in tables:
                tables[name].append(dict(zip(columns, line[1:], strict=True)))
        numbers = {row["origin"]: row["number"] for row in tables["log_origins"]}
        rows = sorted(tables["checkpoints"], key=lambda row: (numbers.get(row["origin"], 0), row["size"]))
        for row in rows:
            yield StoredCheckpoint(row["origin"], row["size"], row["note"])

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
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadFile(f"the file is cut off or damaged: {error}") from None
        if not ended:
            raise BadFile("the file is cut off: its last line is missing")


@contextmanager
def open_export(path: Path) -> Iterator[Source]:
    """The log in a file that `coordinator log export` wrote."""
    yield ExportSource(path)
