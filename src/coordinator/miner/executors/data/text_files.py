"""Files of text as lines: unpacked, decoded, and bounded in the length of a line."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from coordinator.miner.executors.data.faults import bad_input
from coordinator.miner.executors.errors import INPUT_TOO_LARGE, INVALID_PAYLOAD, ExecutorError

MAX_LINE_CHARACTERS: Final = 32 * 2**20
LEAST_UNPACKED_BYTES: Final = 256 * 2**20
UNPACKED_PER_BYTE: Final = 100
FALLBACK: Final = "cp1252"
"""Tried for tables that are not UTF-8 and name no encoding: the usual one of spreadsheets."""
_SEARCHED_BYTES: Final = 4096
_GZIP: Final = b"\x1f\x8b"
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES: Final = (
    (b"PAR1", "is a parquet file; set input_format to parquet"),
    (b"PK\x03\x04", "is a ZIP archive or an Excel workbook; save the sheet as csv"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook; save the sheet as csv"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd; send it plain or as gzip"),
    (b"BZh", "is packed with bzip2; send it plain or as gzip"),
    (b"\xfd7zXZ", "is packed with xz; send it plain or as gzip"),
    (b"%PDF", "is a PDF, no table"),
)
_NOT_OF_TABLES: Final = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"}
)
"""Codecs of Python's for something else than files of text."""


def check_encoding(name: str) -> str:
    """Python's name of an encoding, or `auto`. Raises ExecutorError for an unknown one."""
    if name == "auto":
        return name
    try:
        found = codecs.lookup(name)
        "a".encode(name)
    except (LookupError, ValueError):
        found = None
    if found is None or found.name.replace("-", "_") in _NOT_OF_TABLES:
        raise ExecutorError(
            INVALID_PAYLOAD,
            "encoding: unknown; try utf-8, utf-16, cp1252, iso-8859-15 or another of Python's names",
        )
    return "utf-8-sig" if found.name == "utf-8" else found.name


class Lines:
    """The lines of a file, each with its end. Iterates once; `count` is the number of lines so far."""

    def __init__(self, file: io.TextIOBase, number: int) -> None:
        self._file = file
        self._number = number
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE_CHARACTERS)
        if not line:
            raise StopIteration
        if len(line) == MAX_LINE_CHARACTERS:
            raise ExecutorError(
                INPUT_TOO_LARGE,
                f"inputs.{self._number}: line {self.count + 1} has more than "
                f"{MAX_LINE_CHARACTERS} characters",
            )
        if not self.count:
            line = line.removeprefix("\ufeff")
        self.count += 1
        return line


@contextmanager
def lines_of(path: str, number: int, encoding: str, notes: list[str], *, guess: bool) -> Iterator[Lines]:
    """The lines of an input.

    `guess` allows FALLBACK for a file that is not UTF-8, and says so in `notes`. Raises ExecutorError for an
    empty file, another kind of file, a cut or damaged gzip, and for bytes that the encoding lacks.
    """
    _check_start(path, number)
    try:
        if encoding == "auto":
            encoding = _found_encoding(path, number, notes, guess=guess)
        with _unpacked(path, number) as packed:
            yield Lines(io.TextIOWrapper(packed, encoding=encoding, newline=""), number)
    except UnicodeError:
        raise _not_decoded(path, number, encoding) from None
    except EOFError:
        raise bad_input(number, "the gzip file ends early; send it again") from None
    except (gzip.BadGzipFile, zlib.error):
        raise bad_input(number, "the gzip file is damaged; send it again") from None


def _check_start(path: str, number: int) -> None:
    with Path(path).open("rb") as file:
        start = file.read(_SEARCHED_BYTES)
    if not start:
        raise bad_input(number, "the file is empty")
    for mark, what in _OTHER_FILES:
        if start.startswith(mark):
            raise bad_input(number, what)
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise bad_input(number, "is a web page, no table; is the URL right?")


class _Bounded(io.BufferedIOBase):
    """A gzip file that may unpack to `most` bytes."""

    def __init__(self, file: gzip.GzipFile, number: int, most: int) -> None:
        self._file = file
        self._number = number
        self._left = most

    def readable(self) -> bool:
        return True

    def read1(self, size: int | None = -1, /) -> bytes:
        part = self._file.read1(size if size is not None else -1)
        self._left -= len(part)
        if self._left < 0:
            raise ExecutorError(
                INPUT_TOO_LARGE, f"inputs.{self._number}: unpacks to far too much; send it plain"
            )
        return part

    def read(self, size: int | None = -1, /) -> bytes:
        return self.read1(size)


@contextmanager
def _unpacked(path: str, number: int) -> Iterator[BinaryIO]:
    with Path(path).open("rb") as file:
        packed = file.read(2) == _GZIP
        size = file.seek(0, 2)
        file.seek(0)
        if not packed:
            yield file
            return
        most = max(LEAST_UNPACKED_BYTES, UNPACKED_PER_BYTE * size)
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield cast(BinaryIO, _Bounded(unpacked, number, most))


def _found_encoding(path: str, number: int, notes: list[str], *, guess: bool) -> str:
    with _unpacked(path, number) as file:
        start = file.read(_SEARCHED_BYTES)
        for mark, encoding in _MARKS:
            if start.startswith(mark):
                return encoding
        if b"\0" in start:
            raise bad_input(
                number, "has NUL bytes; if it is text, give its encoding, such as utf-16-le or utf-16-be"
            )
        if not guess or _decodes(start, file, "utf-8"):
            return "utf-8"
    with _unpacked(path, number) as file:
        if not _decodes(file.read(_SEARCHED_BYTES), file, FALLBACK):
            return "utf-8"  # whose error names the line
    notes.append(
        f"inputs.{number}: is not UTF-8 and was read as {FALLBACK}; if that is wrong, give its encoding"
    )
    return FALLBACK


def _decodes(start: bytes, rest: BinaryIO, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    part = start
    try:
        while part:
            decoder.decode(part)
            part = rest.read(1 << 20)
        decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True


def _not_decoded(path: str, number: int, encoding: str) -> ExecutorError:
    named = "utf-8" if encoding == "utf-8-sig" else encoding
    where = ""
    if not named.startswith(("utf-16", "utf-32")):
        with _unpacked(path, number) as file:
            line, rest = 1, b""
            while part := file.read(1 << 20):
                *whole, rest = (rest + part).split(b"\n")
                for content in whole:
                    if not _decodes(content, io.BytesIO(), named):
                        return bad_input(number, _undecodable(f"line {line}: ", named))
                    line += 1
            where = f"line {line}: "
    return bad_input(number, _undecodable(where, named))


def _undecodable(where: str, encoding: str) -> str:
    return f"{where}not {encoding}; give the file's encoding, such as cp1252, iso-8859-15 or utf-16"
