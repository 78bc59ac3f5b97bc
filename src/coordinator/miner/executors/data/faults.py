"""Faults of the data child's inputs and steps; their texts are for the client."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from coordinator.miner.executors.errors import INPUT_TOO_LARGE, INVALID_PAYLOAD, ExecutorError

MAX_COLUMNS: Final = 10_000
SHOWN_CHARACTERS: Final = 64


class Unfit(ValueError):
    """A step or a type that does not fit its column; the text is for the client."""


def shown(name: str) -> str:
    """A column's name in a message: short, and in one line."""
    text = name if len(name) <= SHOWN_CHARACTERS else f"{name[: SHOWN_CHARACTERS - 1]}…"
    return "".join(letter if letter.isprintable() else "�" for letter in text) or '""'


def bad_input(number: int, problem: str) -> ExecutorError:
    return ExecutorError(INVALID_PAYLOAD, f"inputs.{number}: {problem}")


def check_width(number: int, columns: int) -> None:
    """Raise ExecutorError for a table of too many columns."""
    if columns > MAX_COLUMNS:
        raise ExecutorError(INPUT_TOO_LARGE, f"inputs.{number}: more than {MAX_COLUMNS} columns")


def check_names(names: Iterable[str]) -> None:
    """Raise ExecutorError for names that Polars takes for patterns, wherever they are used."""
    for name in names:
        if name.startswith("^") and name.endswith("$"):
            raise ExecutorError(
                INVALID_PAYLOAD, f"inputs: a column named {shown(name)} can't be used; rename it"
            )


@dataclass(slots=True)
class Cells:
    """Counts the cells of all inputs, and refuses more than `most`."""

    most: int
    count: int = 0

    def add(self, cells: int) -> None:
        self.count += cells
        self.check(self.count)

    def check(self, cells: int) -> None:
        """Raise ExecutorError for a table of more than `most` cells."""
        if cells > self.most:
            raise ExecutorError(
                INPUT_TOO_LARGE, f"inputs: more than {self.most} cells; split them, or leave out columns"
            )


@dataclass(slots=True)
class Places:
    """The file and line of each row of a table that was read from files of text."""

    starts: list[int] = field(default_factory=list)
    """The number of the first row of each input."""
    lines: list[array[int]] = field(default_factory=list)
    """The lines at which the rows of each input begin."""

    def add(self, lines: array[int]) -> None:
        self.starts.append(self.starts[-1] + len(self.lines[-1]) if self.starts else 0)
        self.lines.append(lines)

    def of(self, row: int) -> str:
        """`inputs.N: line M` of a row, counted from 0."""
        number = bisect_right(self.starts, row) - 1
        return f"inputs.{number}: line {self.lines[number][row - self.starts[number]]}"
