"""A table as a file: values keep their digits, nested values their form or their JSON text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import polars as pl

from coordinator.miner.executors.data.column_types import as_json
from coordinator.miner.executors.data.faults import shown
from coordinator.miner.executors.data.json_lines import RAW, is_exact_float
from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError

_TYPES: Final[dict[Any, str]] = {
    pl.String: "text",
    pl.Boolean: "boolean",
    pl.Date: "date",
    pl.Categorical: "text",
    pl.Enum: "text",
}


def write(table: pl.DataFrame, path: Path, kind: str, notes: list[str], *, raw: bool) -> None:
    """Write the file. With `raw`, columns of bytes are JSON text (see `json_lines`).

    Raises ExecutorError: INVALID_PAYLOAD for bytes in a text format, and for jsonl without rows.
    """
    if kind == "parquet":
        _parquet_form(table, notes, raw=raw).write_parquet(path)
        return
    if not raw:
        for name, dtype in table.schema.items():
            if dtype == pl.Binary:
                raise ExecutorError(
                    INVALID_PAYLOAD,
                    f"output_format: {shown(name)} has bytes, which {kind} can't hold; choose parquet",
                )
    if kind == "csv":
        _csv_form(table).write_csv(path)
    else:
        _write_jsonl(table, path, notes)


def type_of(dtype: pl.DataType) -> str:
    """The type of a column in the result."""
    if dtype.is_integer():
        return "integer"
    if dtype.is_numeric():
        return "number"
    return _TYPES.get(type(dtype), "timestamp" if isinstance(dtype, pl.Datetime) else "other")


def _csv_form(table: pl.DataFrame) -> pl.DataFrame:
    made = []
    for column in table.get_columns():
        if column.dtype == RAW:
            made.append(column.cast(pl.String))
        else:
            made.append(as_json(column) if column.dtype.is_nested() else column)
    return pl.DataFrame(made)


def _write_jsonl(table: pl.DataFrame, path: Path, notes: list[str]) -> None:
    if not table.height:
        raise ExecutorError(
            INVALID_PAYLOAD,
            "output_format: no row is left, and jsonl without rows is no file; choose csv or parquet",
        )
    lost = {c.name: int((~c.is_finite()).sum()) for c in table.get_columns() if c.dtype.is_float()}
    notes += [
        f"{shown(name)}: {count} values (NaN, infinity) became null, as JSON has none of them"
        for name, count in lost.items()
        if count
    ]
    if RAW not in table.dtypes:
        table.write_ndjson(path)
        return
    members = []
    for column in table.get_columns():
        name = json.dumps(column.name, ensure_ascii=False)
        plain = column.cast(pl.String) if column.dtype == RAW else as_json(column.alias("v"))
        members.append(name + pl.Series(":", [":"]).new_from_index(0, table.height) + plain.fill_null("null"))
    lines = pl.DataFrame([member.alias(str(n)) for n, member in enumerate(members)])
    text = lines.select("{" + pl.concat_str(pl.all(), separator=",") + "}").to_series()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in text)


def _parquet_form(table: pl.DataFrame, notes: list[str], *, raw: bool) -> pl.DataFrame:
    if not raw or RAW not in table.dtypes:
        return table
    return pl.DataFrame(
        [_decoded(column, notes) if column.dtype == RAW else column for column in table.get_columns()]
    )


def _decoded(column: pl.Series, notes: list[str]) -> pl.Series:
    """JSON text as lists and structs, if nothing is lost by it; else as text."""
    text = column.cast(pl.String)
    if text.drop_nulls().str.contains(r"^[\[{]").all():
        try:
            cells = [None if cell is None else json.loads(cell, parse_float=_exact) for cell in text]
            return pl.Series(column.name, cells, strict=True)
        except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
            pass
    notes.append(
        f"{shown(column.name)}: kept as JSON text, as its values fit no type of parquet without loss"
    )
    return text


def _exact(literal: str) -> float:
    if not is_exact_float(literal):
        raise ValueError
    return float(literal)
