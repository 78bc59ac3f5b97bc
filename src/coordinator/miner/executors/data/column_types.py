"""Types of columns: what the client names, what `infer` finds, and the cell that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl

from coordinator.miner.executors.data.faults import Unfit, shown
from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError

TRUE: Final = ("true", "yes", "1")
FALSE: Final = ("false", "no", "0")
EXACT_DIGITS: Final = 15
"""A decimal of so many digits is exact enough in 64 bits to be written as it was."""
_TIMESTAMP: Final = pl.Datetime("us", "UTC")
_DTYPES: Final[dict[str, Any]] = {
    "integer": pl.Int64,
    "number": pl.Float64,
    "text": pl.String,
    "boolean": pl.Boolean,
    "date": pl.Date,
    "timestamp": _TIMESTAMP,
}
_WANTED: Final = {
    "integer": "a whole number of 64 bits",
    "number": "a number",
    "boolean": "true, false, yes, no, 1 or 0",
    "date": "a date like 2024-02-29",
    "timestamp": "a time like 2024-02-29T12:00:00Z",
    "text": "a value that is text",
}
_INTEGER: Final = r"^[+-]?[0-9]+$"
_NUMBER: Final = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_DATE: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TIME: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}"
    r"(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?$"
)
_PLAIN_INTEGER: Final = r"^(?:0|-?[1-9][0-9]{0,18})$"
_PLAIN_NUMBER: Final = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$"


def convert(column: pl.Series, to: str, *, decimal_comma: bool = False) -> tuple[pl.Series, int | None]:
    """The column with the type, and the row of the first cell that does not fit (it is missing then)."""
    if column.dtype == pl.Binary:
        try:
            column = column.cast(pl.String)  # JSON text
        except pl.exceptions.PolarsError:
            raise Unfit(f"{shown(column.name)} is a column of bytes") from None
    if column.dtype == pl.String:
        made = _FROM_TEXT[to](column, decimal_comma)
    elif column.dtype.is_nested():
        if to != "text":
            raise Unfit(f"{shown(column.name)} is a column of nested values; they can only become text")
        made = as_json(column)
    elif column.dtype.is_float() and to == "integer":
        made = column.cast(pl.Int64, strict=False)
        made = made.set(made.cast(pl.Float64) != column, None)  # 1.5 is no whole number
    else:
        try:
            made = column.cast(_DTYPES[to], strict=False)
        except pl.exceptions.PolarsError:
            raise Unfit(f"{shown(column.name)} can't become {to}") from None
    wrong = made.is_null() & column.is_not_null()
    return made, wrong.arg_max() if wrong.any() else None


def not_fitting(name: str, to: str) -> str:
    return f"column {shown(name)}: not {_WANTED[to]}"


def _text(column: pl.Series, _: bool) -> pl.Series:
    return column


def _matching(column: pl.Series, pattern: str) -> pl.Series:
    """The cells without spaces around them; those that do not match the pattern are missing."""
    bare = column.str.strip_chars()
    return bare.set(~bare.str.contains(pattern), None)


def _integer(column: pl.Series, _: bool) -> pl.Series:
    return _matching(column, _INTEGER).cast(pl.Int64, strict=False)


def _number(column: pl.Series, decimal_comma: bool) -> pl.Series:
    if decimal_comma:
        # A point would be between thousands: what it means, only the client knows.
        column = column.set(column.str.contains(".", literal=True), None).str.replace(",", ".", literal=True)
    made = _matching(column, _NUMBER).cast(pl.Float64, strict=False)
    return made.set(~made.is_finite(), None)


def _boolean(column: pl.Series, _: bool) -> pl.Series:
    words = column.str.strip_chars().str.to_lowercase()
    return pl.select(
        pl.when(words.is_in(TRUE)).then(True).when(words.is_in(FALSE)).then(False).alias(column.name)
    ).to_series()


def _date(column: pl.Series, _: bool) -> pl.Series:
    return _matching(column, _DATE).str.to_date("%Y-%m-%d", strict=False)


def _timestamp(column: pl.Series, _: bool) -> pl.Series:
    cells = _matching(column, f"{_DATE}|{_TIME}")
    return pl.Series(
        column.name, [None if cell is None else _moment(cell) for cell in cells], dtype=_TIMESTAMP
    )


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


_FROM_TEXT: Final[dict[str, Callable[[pl.Series, bool], pl.Series]]] = {
    "integer": _integer,
    "number": _number,
    "text": _text,
    "boolean": _boolean,
    "date": _date,
    "timestamp": _timestamp,
}


def as_json(column: pl.Series) -> pl.Series:
    """A nested column as JSON text."""
    name, missing = column.name, column.is_null()
    text = pl.DataFrame([column.alias("v")]).select(pl.struct("v").struct.json_encode()).to_series()
    return text.str.slice(len('{"v":')).str.head(-1).set(missing, None).alias(name)


# --- a whole table -----------------------------------------------------------------------------------------
def apply_types(
    table: pl.DataFrame,
    types: Mapping[str, str] | str | None,
    place_of: Callable[[int], str],
    *,
    decimal_comma: bool,
) -> pl.DataFrame:
    """The table with the client's types; text stays text unless it is named, or `types` is `infer`.

    `place_of` names the place of a row. Raises ExecutorError: INVALID_PAYLOAD with the cell that is unfit.
    """
    if types == "infer":
        texts = [name for name, kind in table.schema.items() if kind == pl.String]
        return table.with_columns([_inferred(table[name], decimal_comma) for name in texts])
    if types is None:
        return table
    wanted = dict.fromkeys(table.columns, "text") if isinstance(types, str) else types
    made = []
    for name, to in wanted.items():
        if name not in table.columns:
            raise ExecutorError(INVALID_PAYLOAD, f"types: no column {shown(name)}; {named(table.columns)}")
        try:
            column, row = convert(table[name], to, decimal_comma=decimal_comma)
        except Unfit as unfit:
            raise ExecutorError(INVALID_PAYLOAD, f"types: {unfit}") from None
        if row is not None:
            raise ExecutorError(
                INVALID_PAYLOAD,
                f"{place_of(row)}, {not_fitting(name, to)}; correct the cell, add its text to missing, "
                "or leave the column text",
            )
        made.append(column)
    return table.with_columns(made)


def named(columns: list[str]) -> str:
    """The columns that there are, for a message."""
    first = ", ".join(map(shown, columns[:5]))
    return f"the columns are {first}{' and others' if len(columns) > 5 else ''}"


def _inferred(column: pl.Series, decimal_comma: bool) -> pl.Series:
    """The column as integer, number, boolean, date or timestamp if every cell is; else as it was."""
    cells = column.drop_nulls()
    if not len(cells):
        return column
    if cells.str.contains(_PLAIN_INTEGER).all():
        return _whole(column, "integer", decimal_comma)
    plain = cells
    if decimal_comma and not cells.str.contains(".", literal=True).any():
        plain = cells.str.replace(",", ".", literal=True)
    digits = plain.str.replace(r"[eE].*$", "").str.count_matches("[0-9]")
    if plain.str.contains(_PLAIN_NUMBER).all() and (digits <= EXACT_DIGITS).all():
        return _whole(column, "number", decimal_comma)
    if cells.str.to_lowercase().is_in(["true", "false"]).all():
        return _whole(column, "boolean", decimal_comma)
    if cells.str.contains(_DATE).all():
        return _whole(column, "date", decimal_comma)
    if cells.str.contains(_TIME).all():
        return _whole(column, "timestamp", decimal_comma)
    return column


def _whole(column: pl.Series, to: str, decimal_comma: bool) -> pl.Series:
    made, row = convert(column, to, decimal_comma=decimal_comma)
    return made if row is None else column
