"""CSV and its relatives, read as they are: every cell is text, every row has its line."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import polars as pl

from coordinator.miner.executors.data.faults import Cells, bad_input, check_width, shown
from coordinator.miner.executors.data.text_files import MAX_LINE_CHARACTERS, lines_of
from coordinator.miner.executors.errors import INPUT_TOO_LARGE, ExecutorError

DELIMITERS: Final = (",", ";", "\t", "|")
"""Those that are found out, in the order of preference."""
SAMPLE_LINES: Final = 50
SAMPLE_CHARACTERS: Final = 2**20
CELLS_AT_ONCE: Final = 200_000
_NAMED_DELIMITER: Final = re.compile(r"^sep=([^\"'\r\n])\r?\n?$")
"""A first line that spreadsheets write, and which is no row."""
_JSON: Final = re.compile(r'\s*(\{\s*"|\[\s*[\[{]|[\[{]\s*$)')
"""The beginning of a file that is JSON: its first line would become the header, and its row be lost."""
_NAMES: Final = {"\t": "tab", " ": "space"}


def read_delimited(
    path: str, number: int, plan: Mapping[str, Any], cells: Cells, notes: list[str]
) -> tuple[pl.DataFrame, array[int]]:
    """A table of text, and the line of each row.

    Raises ExecutorError: INVALID_PAYLOAD for ragged rows, broken quotes, equal names; INPUT_TOO_LARGE.
    """
    options = plan["csv"]
    csv.field_size_limit(MAX_LINE_CHARACTERS)
    with lines_of(path, number, plan["encoding"], notes, guess=True) as lines:
        sample = _sample(lines)
        if not any(line.strip("\r\n") for line in sample):
            raise bad_input(number, "the file has no rows")
        if options["header"] and _JSON.match(next(line for line in sample if line.strip("\r\n"))):
            raise bad_input(
                number, "is JSON; write each row as {…} on a line of its own, and set input_format to jsonl"
            )
        delimiter = options["delimiter"]
        begin = 1
        if delimiter == "auto":
            if named := _NAMED_DELIMITER.match(sample[0]):
                delimiter, begin = named[1], 2
                del sample[0]
            else:
                delimiter = found_delimiter(sample, options["quote"])
        return _Reader(number, delimiter, options, cells, begin).read(_chain(sample, lines))


def _sample(lines: Iterator[str]) -> list[str]:
    sample, left = [], SAMPLE_CHARACTERS
    for line in islice(lines, SAMPLE_LINES):
        sample.append(line)
        left -= len(line)
        if left < 0:
            break
    return sample


def found_delimiter(sample: Sequence[str], quote: str) -> str:
    """The delimiter that cuts the sample's rows into equally many cells; else the first row's commonest."""
    best, most = ",", 1
    first: dict[str, int] = {}
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in csv.reader(sample, **_dialect(delimiter, quote)) if row]
        except csv.Error:
            rows = []
        rows = rows[:-1] if len(rows) > 2 else rows  # the last one may go on behind the sample
        widths = {len(row) for row in rows}
        first[delimiter] = len(rows[0]) if rows else 1
        if len(widths) == 1 and first[delimiter] > most:
            best, most = delimiter, first[delimiter]
    return best if most > 1 else max(DELIMITERS, key=lambda delimiter: first[delimiter])


def _dialect(delimiter: str, quote: str, *, strict: bool = False) -> dict[str, Any]:
    quoting: dict[str, Any] = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    return {"delimiter": delimiter, "strict": strict, **quoting}


def _chain(sample: list[str], lines: Iterator[str]) -> Iterator[str]:
    yield from sample
    yield from lines


class _Reader:
    def __init__(
        self, number: int, delimiter: str, options: Mapping[str, Any], cells: Cells, begin: int
    ) -> None:
        self._number = number
        self._delimiter = delimiter
        self._options = options
        self._cells = cells
        self._begin = begin
        self._pad = options["ragged"] == "pad"

    def read(self, lines: Iterator[str]) -> tuple[pl.DataFrame, array[int]]:
        records = self._records(lines)
        line, first = next(((line, row) for line, row in records if row), (0, []))
        if not first:
            raise bad_input(self._number, "the file has no rows")
        header = first if self._options["header"] else [f"column_{n + 1}" for n in range(len(first))]
        check_width(self._number, len(header))
        self._check_names(header, line)
        if not self._options["header"]:
            records = _with_first((line, first), records)
        frames, rows, places = [], list[list[str]](), array("Q")
        width = len(header)
        for line, row in records:
            if not row:
                if width > 1:
                    continue  # a blank line
                row.append("")
            if len(row) != width:
                if not self._pad:
                    raise self._ragged(line, row, header)
                if len(row) > width:
                    check_width(self._number, len(row))
                    frames.append(_frame(rows, width))
                    rows, width = [], len(row)
                row.extend([""] * (width - len(row)))
            self._cells.add(width)
            rows.append(row)
            places.append(line)
            if len(rows) * width >= CELLS_AT_ONCE:
                frames.append(_frame(rows, width))
                rows = []
        frames.append(_frame(rows, width))
        table = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
        table = table.fill_null("") if self._pad else table  # as the cells of padded rows
        names = header + [f"column_{n + 1}" for n in range(len(header), width)]
        self._check_names(names, 1)
        table.columns = names
        return table, places

    def _records(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        """The rows with the lines at which they begin."""
        reader = csv.reader(lines, **_dialect(self._delimiter, self._options["quote"], strict=True))
        start = self._begin
        try:
            for row in reader:
                yield start, row
                start = reader.line_num + self._begin
        except csv.Error as error:
            raise self._broken(start, str(error)) from None

    def _broken(self, line: int, problem: str) -> ExecutorError:
        where = f"line {line}"
        if "field larger" in problem:
            return ExecutorError(
                INPUT_TOO_LARGE,
                f"inputs.{self._number}: {where}: a cell has more than {MAX_LINE_CHARACTERS} characters",
            )
        plain = 'if quotes are plain characters there, set csv.quote to ""'
        if "end of data" in problem:
            return bad_input(self._number, f"{where}: a quoted cell that begins there never ends; {plain}")
        return bad_input(
            self._number,
            f"{where}: text follows a closing quote; double the quotes inside of a cell, or {plain}",
        )

    def _ragged(self, line: int, row: list[str], header: list[str]) -> ExecutorError:
        named = _NAMES.get(self._delimiter, self._delimiter)
        columns = f"{len(header)} column{'s' if len(header) != 1 else ''}"
        tail = (
            f"the header {columns} (delimiter {named}); quote cells that hold the delimiter, "
            "give csv.delimiter, or set csv.ragged to pad"
        )
        cells = f"{len(row)} cell{'s' if len(row) != 1 else ''}"
        missing = f" (no {shown(header[len(row)])})" if len(row) < len(header) else ""
        return bad_input(self._number, f"line {line} has {cells}{missing}, {tail}")

    def _check_names(self, names: Sequence[str], line: int) -> None:
        if len(set(names)) != len(names):
            twice = next(name for n, name in enumerate(names) if name in names[:n])
            raise bad_input(
                self._number,
                f"line {line}: two columns are named {shown(twice)}; rename one, or set csv.header to false",
            )


def _with_first(
    first: tuple[int, list[str]], rest: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rest


def _frame(rows: list[list[str]], width: int) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * width
    return pl.DataFrame([pl.Series(str(n), column, dtype=pl.String) for n, column in enumerate(columns)])
