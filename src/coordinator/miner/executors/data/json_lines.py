"""JSON Lines, read without loss: numbers keep their digits, nested values their text.

Each cell is first kept as text. A column whose values are all of one kind gets that type; numbers beyond 64
bits and nested values stay JSON text, as a column of Polars' type Binary.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import polars as pl

from coordinator.miner.executors.data.faults import Cells, Places, bad_input, check_names, check_width, shown
from coordinator.miner.executors.data.text_files import lines_of
from coordinator.miner.executors.errors import ExecutorError

ROWS_AT_ONCE: Final = 5_000
EXACT_IN_FLOAT: Final = 2**53
MAX_FLOAT_CHARACTERS: Final = 400
"""More digits are no float's; and they take long to compare."""
_INT64: Final = range(-(2**63), 2**63)
_NUMBERS: Final = frozenset({"integer", "wide integer", "number", "exact number"})
RAW: Final = pl.Binary
"""The type of columns that hold JSON text."""


class _Fault(ValueError):
    """A line that is no object of a table; the text is for the client."""


class _Literal(str):
    """A number as it is written."""

    __slots__ = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Fault(f"the key {shown(twice)} is there twice")
    return made


def _constant(name: str) -> Any:
    raise _Fault(f"{name} is no number of JSON; write null, or a text")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_Literal, parse_int=_Literal, parse_constant=_constant
)


class JsonLines:
    """Collects the rows of several inputs."""

    def __init__(self, cells: Cells) -> None:
        self.places = Places()
        self._cells = cells
        self._frames: list[pl.DataFrame] = []
        self._rows = 0
        self._kinds: dict[str, dict[str, str]] = {}
        """For each column its kinds of values, each with the place of the first one."""

    def read(self, path: str, number: int, plan: Mapping[str, Any], notes: list[str]) -> None:
        """Add the rows of an input. Raises ExecutorError: INVALID_PAYLOAD with the line, INPUT_TOO_LARGE."""
        rows: list[dict[str, str | None]] = []
        places = array("Q")
        with lines_of(path, number, plan["encoding"], notes, guess=False) as lines:
            for line in lines:
                if not line.strip():
                    continue
                where = f"inputs.{number}: line {lines.count}"
                try:
                    rows.append(self._row(line, where))
                except _Fault as fault:
                    raise bad_input(number, f"line {lines.count}: {fault}") from None
                check_width(number, len(self._kinds))
                self._rows += 1
                self._cells.check(self._rows * len(self._kinds))
                places.append(lines.count)
                if len(rows) >= ROWS_AT_ONCE:
                    self._flush(rows)
                    rows = []
        if not places:
            raise bad_input(number, "the file has no rows")
        self._flush(rows)
        self.places.add(places)

    def _row(self, line: str, where: str) -> dict[str, str | None]:
        value = _decoded(line)
        if not isinstance(value, dict):
            array_of_rows = isinstance(value, list) or line.lstrip().startswith("[")
            raise _Fault(
                "a JSON array; write each of its objects on a line of its own"
                if array_of_rows
                else "not an object; write each row as {…}"
            )
        row: dict[str, str | None] = {}
        for name, cell in value.items():
            kind, text = _kind_and_text(cell)
            kinds = self._kinds.setdefault(name, {})
            if kind is not None:
                kinds.setdefault(kind, where)
            row[name] = text
        return row

    def _flush(self, rows: list[dict[str, str | None]]) -> None:
        if rows:
            schema = dict.fromkeys(self._kinds, pl.String)
            self._frames.append(pl.DataFrame(rows, schema=schema, orient="row"))

    def table(self, types: Mapping[str, str] | str | None, notes: list[str]) -> pl.DataFrame:
        """The table: columns of the client's `types` stay text, the others get the types of their values."""
        if not self._kinds:
            raise ExecutorError("INVALID_PAYLOAD", "inputs: no object has a member")
        check_names(self._kinds)
        table = pl.concat(self._frames, how="diagonal")
        made = []
        for name in table.columns:
            as_text = types == "text" or (isinstance(types, Mapping) and name in types)
            made.append(table[name] if as_text else self._typed(table[name], self._kinds[name], notes))
        return pl.DataFrame(made)

    def _typed(self, column: pl.Series, kinds: Mapping[str, str], notes: list[str]) -> pl.Series:
        found = set(kinds)
        if found <= {"text"}:
            return column
        if found == {"boolean"}:
            return column == "true"
        if found == {"nested"}:
            return column.cast(RAW)
        if found <= {"integer", "wide integer"}:
            return column.cast(pl.Int64)
        if found <= {"integer", "number"}:
            return column.cast(pl.Float64)
        if found <= _NUMBERS:
            notes.append(
                f"{shown(column.name)}: numbers beyond 64 bits keep their digits, and can't be computed with"
            )
            return column.cast(RAW)
        first, second = sorted(kinds.items(), key=lambda item: _order(item[1]))[:2]
        raise ExecutorError(
            "INVALID_PAYLOAD",
            f"{second[1]}, column {shown(column.name)}: {second[0]}, but {first[0]} at {first[1]}; "
            "give the column the type text in types",
        )


def _order(where: str) -> tuple[int, int]:
    number, line = where.removeprefix("inputs.").split(": line ")
    return int(number), int(line)


def _decoded(line: str) -> Any:
    try:
        value = _DECODER.decode(line.strip())
        if "\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise _Fault("a text has half of a surrogate pair (\\ud800 to \\udfff)") from None
    except json.JSONDecodeError as error:
        end = error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated")
        problem = (
            "the line ends early; is the file cut?" if end else f"{error.msg} at character {error.colno}"
        )
        raise _Fault(f"not JSON: {problem}") from None
    except RecursionError:
        raise _Fault("values are nested too deeply") from None


def _kind_and_text(value: Any) -> tuple[str | None, str | None]:
    match value:
        case None:
            return None, None
        case bool():
            return "boolean", "true" if value else "false"
        case _Literal():
            return _kind_of_number(value), str(value)
        case str():
            return "text", value
    return "nested", json_text(value)


def _kind_of_number(literal: str) -> str:
    if literal.lstrip("-").isdigit():
        if len(literal) > 20:
            return "exact number"
        value = int(literal)
        if abs(value) <= EXACT_IN_FLOAT:
            return "integer"
        return "wide integer" if value in _INT64 else "exact number"
    return "number" if is_exact_float(literal) else "exact number"


def is_exact_float(literal: str) -> bool:
    """Whether the number equals the shortest decimal of its 64-bit float, which is what is written."""
    if len(literal) > MAX_FLOAT_CHARACTERS:
        return False
    value = float(literal)
    return value not in (float("inf"), float("-inf")) and Decimal(repr(value)) == Decimal(literal)


def json_text(value: Any) -> str:
    """JSON text of a decoded value, with numbers as they were written."""
    match value:
        case _Literal():
            return str(value)
        case dict():
            return f"{{{','.join(f'{json_text(name)}:{json_text(part)}' for name, part in value.items())}}}"
        case list():
            return f"[{','.join(map(json_text, value))}]"
    return json.dumps(value, ensure_ascii=False)
