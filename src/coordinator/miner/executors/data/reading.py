"""Inputs of any format as one table, with the client's types and marks for missing cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from coordinator.miner.executors.data.column_types import apply_types
from coordinator.miner.executors.data.delimited import read_delimited
from coordinator.miner.executors.data.faults import Cells, Places, bad_input, check_names, check_width, shown
from coordinator.miner.executors.data.json_lines import JsonLines
from coordinator.miner.executors.data.text_files import check_encoding
from coordinator.miner.executors.errors import INPUT_TOO_LARGE, ExecutorError


def read_table(plan: Mapping[str, Any], notes: list[str]) -> pl.DataFrame:
    """The rows of all inputs. Raises ExecutorError with the input, the line and the column of the fault."""
    plan = {**plan, "encoding": check_encoding(plan["encoding"])}
    kind, types, cells = plan["input_format"], plan["types"], Cells(plan["max_cells"])
    places: Places | None = None
    if kind == "csv":
        places = Places()
        tables = []
        for number, path in enumerate(plan["inputs"]):
            table, lines = read_delimited(path, number, plan, cells, notes)
            tables.append(table)
            places.add(lines)
        whole = _concatenated(tables)
    elif kind == "jsonl":
        reader = JsonLines(cells)
        for number, path in enumerate(plan["inputs"]):
            reader.read(path, number, plan, notes)
        places, whole = reader.places, reader.table(types, notes)
    else:
        _check_declared(plan["inputs"], plan["max_cells"])
        whole = _concatenated([_parquet(path, number) for number, path in enumerate(plan["inputs"])])
    missing = plan["missing"]
    if missing is None:
        missing = [""] if kind == "csv" else []
    texts = [name for name, dtype in whole.schema.items() if dtype == pl.String]
    if missing and texts:
        whole = whole.with_columns([whole[name].set(whole[name].is_in(missing), None) for name in texts])
    comma = plan["csv"]["decimal_comma"] and kind == "csv"
    return apply_types(
        whole, types, places.of if places else lambda row: f"inputs: row {row + 1}", decimal_comma=comma
    )


def _concatenated(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The rows one below the other, by the names of the columns, whose order is the first table's."""
    first = tables[0]
    check_names(first.columns)
    for number, table in enumerate(tables):
        check_width(number, table.width)
        if table.columns == first.columns:
            continue
        for one, other, what in ((first, table, "lacks"), (table, first, "has besides")):
            odd = [name for name in one.columns if name not in other.columns]
            if odd:
                raise bad_input(
                    number, f"its columns differ from those of the first: it {what} {shown(odd[0])}"
                )
    try:
        return pl.concat([by_name(table, first.columns) for table in tables], how="vertical_relaxed")
    except pl.exceptions.PolarsError:
        for number, table in enumerate(tables):
            for name, kind in first.schema.items():
                if table.schema[name] != kind:
                    problem = f"column {shown(name)} has another type than in the first; cast it before"
                    raise bad_input(number, problem) from None
        raise


def by_name(table: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The table with its columns in this order."""
    return table if table.columns == names else pl.DataFrame([table[name] for name in names])


def _parquet(path: str, number: int) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, glob=False, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        check_memory(error)
        raise bad_input(number, "the parquet file is damaged; write it anew") from None


def _check_declared(paths: Sequence[str], max_cells: int) -> None:
    """Raise ExecutorError for a table that is too large by its own words, before anything is unpacked."""
    cells = 0
    for number, path in enumerate(paths):
        _check_whole(path, number)
        try:
            width = len(pl.read_parquet_schema(path))
            check_width(number, width)
            lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            rows = lazy.select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError, ValueError) as error:
            check_memory(error)
            raise bad_input(number, "the parquet file is damaged; write it anew") from None
        cells += rows * width
    if cells > max_cells:
        raise ExecutorError(
            INPUT_TOO_LARGE, f"inputs: {cells} cells in so few bytes; at most {max_cells} are allowed"
        )


def _check_whole(path: str, number: int) -> None:
    """Raise ExecutorError unless the file begins and ends as parquet does."""
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(4)
        file.seek(max(0, size - 4))
        end = file.read(4)
    if not size:
        raise bad_input(number, "the file is empty")
    if start != b"PAR1":
        raise bad_input(number, "is not a parquet file; is input_format right?")
    if end != b"PAR1" or size < 12:
        raise bad_input(number, "the parquet file ends early; send it again")


def check_memory(error: Exception) -> None:
    """Raise MemoryError if Polars has wrapped one in an error of another type."""
    if "out of memory" in str(error).lower():
        raise MemoryError from None
