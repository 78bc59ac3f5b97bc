"""The export file: JSON lines, compressed with gzip. docs/auditing.md describes it for other languages.

    ["log", {"format": "coordinator log 1", "log_id": …, "program": …, "whole": …, "migrations": […]}]
    ["event", position, stream, version, topic, metadata, state]      metadata and state: the stored text
    ["table", name, [column, …]]
    ["row", value, …]                                                 bytes: {"base64": …}
    ["end", {"events": …, "rows": …, "sha256": …}]                    of all lines before

An interrupted export goes on where it was: the file is a series of gzip members, each on disk before the next
one begins, and `reopen` drops an incomplete last member. Tables are not continued but written again.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, NamedTuple, Self
from uuid import UUID

import orjson

from coordinator.private_files import make_file, sync_folder

FORMAT: Final = "coordinator log 1"
MEMBER_BYTES: Final = 4_000_000
"""Of lines, before compression: an interruption costs at most so much work."""
MAX_LINE: Final = 16 * 2**20
"""A longer line is no export of ours: the largest event or payload is a fraction of it."""
MAX_NUMBER: Final = 2**63 - 1
LEVEL: Final = 5
_READ: Final = 256 * 1024


class BadExport(Exception):
    """The file is not a whole export of a log; the text says what is wrong with it."""


class ExportHeader(NamedTuple):
    """The first line."""

    log_id: str
    program: str
    """The version that wrote it."""
    whole: bool
    """Whether it has payloads, results and all tables, besides the log and its checkpoints."""
    migrations: Sequence[str]
    """The migrations that the tables have had."""
    after: int = 0
    """The events begin after this position: more than 0 for the second and further parts of a backup."""


class EventRow(NamedTuple):
    """A stored event, byte for byte."""

    position: int
    stream: UUID
    version: int
    topic: str
    state: bytes
    metadata: bytes


class TableStart(NamedTuple):
    """The following rows are of this table."""

    name: str
    columns: Sequence[str]


class TableRow(NamedTuple):
    """One row of the table before."""

    values: Sequence[Any]


Item = EventRow | TableStart | TableRow


# --- writing -----------------------------------------------------------------------------------------------
class ExportWriter:
    """Writes one file; use it with `with`. Without `finish` it stays incomplete, and can be continued."""

    def __init__(self, path: Path, header: ExportHeader) -> None:
        """A new file of mode 0600. Raises FileExistsError."""
        if not make_file(path):
            raise FileExistsError(f"{path} exists")
        self._begin(path)
        about = {"format": FORMAT, **header._asdict(), "migrations": list(header.migrations)}
        if not header.after:
            del about["after"]
        self._line(["log", about])

    @classmethod
    def reopen(cls, path: Path, header: ExportHeader) -> Self:
        """Continue an interrupted file after its last event. Raises BadExport for any other file."""
        kept, in_tables = 0, False
        writer = cls.__new__(cls)
        writer._begin(path)
        for end, lines in _members(path):
            items = [parse_line(line) for line in lines]
            if isinstance(items[-1], dict):
                raise BadExport("the file is a whole export already")
            in_tables = in_tables or any(isinstance(item, TableStart | TableRow) for item in items)
            if in_tables:  # they are of the moment of that export: written again
                continue
            for line, item in zip(lines, items, strict=True):
                writer._hash.update(line)
                if isinstance(item, EventRow):
                    writer.events, writer.position = writer.events + 1, item.position
                elif isinstance(item, ExportHeader) and (item.log_id, item.whole) != (
                    header.log_id,
                    header.whole,
                ):
                    raise BadExport("the file is of another log, or was begun with another --whole")
            kept = end
        if not kept:
            raise BadExport("the file has no beginning of an export: remove it and begin again")
        os.truncate(path, kept)
        return writer

    def _begin(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab")
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._size = 0
        self._tables = False
        self.events = self.rows = 0
        self.position = 0
        """The position of the last event."""

    def event(self, row: EventRow) -> None:
        """Add an event; positions increase."""
        self.events += 1
        self.position = row.position
        state, metadata = row.state.decode(), row.metadata.decode()
        self._line(["event", row.position, str(row.stream), row.version, row.topic, metadata, state])

    def table(self, name: str, columns: Sequence[str]) -> None:
        """Begin a table; all events come before it."""
        if not self._tables:
            self._tables = True
            self.flush()  # a member has events or rows, never both
        self._line(["table", name, list(columns)])

    def row(self, values: Sequence[Any]) -> None:
        """Add a row to the table."""
        self.rows += 1
        self._line(["row", *map(_plain, values)])

    def flush(self) -> None:
        """Everything so far is on disk when this returns."""
        if self._waiting:
            self._file.write(gzip.compress(b"".join(self._waiting), LEVEL, mtime=0))
            self._waiting, self._size = [], 0
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Write the last line."""
        self._line(["end", {"events": self.events, "rows": self.rows, "sha256": self._hash.hexdigest()}])
        self.flush()
        sync_folder(self._path.parent)

    def _line(self, value: list[Any]) -> None:
        # Not orjson: states may hold integers beyond 64 bits only as text, but rows hold what tables hold.
        line = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        self._hash.update(line)
        self._waiting.append(line)
        self._size += len(line)
        if self._size >= MEMBER_BYTES:
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None or isinstance(error, KeyboardInterrupt):
                self.flush()
        finally:
            self._file.close()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    return str(value) if isinstance(value, UUID) else value


def _members(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """The complete gzip members: the offset of their end, and their lines. Stops at an incomplete one."""
    with path.open("rb") as file:
        offset = 0
        while True:
            file.seek(offset)
            content = _one_member(file)
            if content is None:
                return
            consumed, text = content
            offset += consumed
            yield offset, [line + b"\n" for line in text.split(b"\n")[:-1]]


def _one_member(file: BinaryIO) -> tuple[int, bytes] | None:
    unpacking = zlib.decompressobj(wbits=31)
    pieces, consumed = [], 0
    try:
        while not unpacking.eof:
            piece = file.read(_READ)
            if not piece:
                return None
            pieces.append(unpacking.decompress(piece))
            consumed += len(piece)
    except zlib.error:
        return None
    return consumed - len(unpacking.unused_data), b"".join(pieces)


# --- reading -----------------------------------------------------------------------------------------------
def read_export(
    path: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[ExportHeader | Item]:
    """The header, then everything else in order; the checks of the whole file come with its end.

    `progress(done, total)` counts bytes of the file. Raises BadExport, at once or at the end.
    """
    size = path.stat().st_size
    digest, events, rows, position = hashlib.sha256(), 0, 0, 0
    ended = begun = False
    with path.open("rb") as raw:
        for line in _unpacked(raw):
            if ended:
                raise BadExport("there is something after the end")
            item = parse_line(line)
            if begun == isinstance(item, ExportHeader):
                raise BadExport("the header is the first line, and no other")
            begun = True
            if isinstance(item, dict):
                ended = True
                if item != {"events": events, "rows": rows, "sha256": digest.hexdigest()}:
                    raise BadExport("the last line does not fit the lines before it: the file was changed")
                continue
            digest.update(line)
            if isinstance(item, ExportHeader):
                position = item.after
            if isinstance(item, EventRow):
                if item.position <= position:
                    raise BadExport(f"position {item.position} comes after position {position}")
                position, events = item.position, events + 1
                if events % 1000 == 0:
                    progress(raw.tell(), size)
            elif isinstance(item, TableRow):
                rows += 1
            yield item
    if not ended:
        raise BadExport("the file ends early: the export was interrupted; run it again to continue it")


def _unpacked(raw: BinaryIO) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=raw) as file:
            while line := file.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise BadExport(f"a line is longer than {MAX_LINE} bytes")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise BadExport(f"the file ends early, or is not compressed with gzip: {error}") from None


def parse_line(line: bytes) -> ExportHeader | Item | dict[str, Any]:
    """One line; a dictionary for the last one. Raises BadExport."""
    try:
        match orjson.loads(line):
            case ["event", int(position), str(stream), int(version), str(topic), str(metadata), str(state)]:
                _check_number(position)
                _check_number(version)
                return EventRow(position, UUID(stream), version, topic, state.encode(), metadata.encode())
            case ["row", *values]:
                return TableRow([_value(value) for value in values])
            case ["table", str(name), list(columns)]:
                return TableStart(name, [str(column) for column in columns])
            case ["log", {"format": str(named), **about}]:
                return _header(named, about)
            case ["end", dict(end)]:
                return end
    except (ValueError, binascii.Error) as error:
        raise BadExport(f"an invalid line: {error}") from None
    raise BadExport("a line of an unknown kind")


def _check_number(value: object) -> None:
    # true is an integer, too.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NUMBER:
        raise BadExport("a position or a version is no number from 1 on")


def _header(named: str, about: Mapping[Any, Any]) -> ExportHeader:
    if named != FORMAT:
        raise BadExport(f"the file's format is {named!r}, and this program reads {FORMAT!r}")
    match about:
        case {
            "log_id": str(log_id),
            "program": str(program),
            "whole": bool(whole),
            "migrations": list(names),
        }:
            after = about.get("after", 0)
            if after:
                _check_number(after)
            return ExportHeader(log_id, program, whole, [str(name) for name in names], after)
    raise BadExport("an invalid header")


def _value(value: Any) -> Any:
    match value:
        case {"base64": str(text)}:
            return base64.b64decode(text, validate=True)
        case dict() | list() | bool():
            raise BadExport("an invalid value in a row")
    return value
