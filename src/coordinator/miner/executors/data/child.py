"""Tables with Polars in a child process, which calls `work`.

Every step is a Polars expression: there is no query language for a client to inject text into. Values pass
unchanged; a cell that a spreadsheet would read as a formula stays as it was.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("POLARS_MAX_THREADS", "2")

import polars as pl

from coordinator.miner.executors.base import INPUT_TOO_LARGE, INVALID_PAYLOAD, ExecutorError
from coordinator.miner.executors.data.text import clean, first_of_similar

MAX_COLUMNS: Final = 10_000
MAX_HEADER_BYTES: Final = 2**24
MISSING_MARKS: Final = ["", "NA", "NaN", "nan", "null", "NULL"]
PARTS: Final = ("train", "validation", "test")
ROBUST_RANGE: Final = (0.25, 0.75)
"""The quartiles, between which a robust scale is 1."""


def work(plan: Mapping[str, Any], report: Callable[[float, str], None]) -> dict[str, Any]:
    """`{inputs, input_format, steps, split, seed, output_format, max_cells}` → the result, with `files`.

    Raises ExecutorError: INVALID_PAYLOAD for unreadable files and steps that do not fit the columns.
    """
    seed = secrets.randbelow(2**53) if plan["seed"] is None else plan["seed"]
    try:
        if plan["input_format"] == "csv":
            for number, path in enumerate(plan["inputs"]):
                _check_header(path, number)
        elif plan["input_format"] == "parquet":
            _check_declared(plan["inputs"], plan["max_cells"])
        table = _read(plan["inputs"], plan["input_format"])
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        _check_memory(error)
        raise ExecutorError(
            INVALID_PAYLOAD, f"inputs: can't be read as {plan['input_format']} ({type(error).__name__})"
        ) from None
    for path in plan["inputs"]:
        Path(path).unlink()
    rows_read, steps = table.height, []
    for number, step in enumerate(plan["steps"]):
        report(0.2 + 0.6 * number / len(plan["steps"]), step["step"])
        try:
            table = _STEPS[step["step"]](table, step, seed + number)
        except (pl.exceptions.PolarsError, ValueError, TypeError, OverflowError) as error:
            _check_memory(error)
            raise ExecutorError(INVALID_PAYLOAD, f"steps.{number}: {_reason(error)}") from None
        if table.width > MAX_COLUMNS or not table.width:
            raise ExecutorError(INPUT_TOO_LARGE, f"steps.{number}: leaves {table.width} columns")
        steps.append({"step": step["step"], "rows": table.height})
    report(0.8, "writing")
    parts = _split(table, plan["split"], seed) if plan["split"] else {"dataset": table}
    files = []
    for name, part in parts.items():
        file = f"{name}.{plan['output_format']}"
        _write(part, Path(file), plan["output_format"])
        files.append(file)
    return {
        "rows_read": rows_read,
        "rows_written": sum(part.height for part in parts.values()),
        "steps": steps,
        "columns": [_description(column) for column in table.get_columns()],
        "files": files,
    }


# --- reading and writing ------------------------------------------------------------------------------------
def _read(paths: Sequence[str], kind: str) -> pl.DataFrame:
    read: dict[str, Callable[[str], pl.DataFrame]] = {
        "csv": lambda path: pl.read_csv(
            path, null_values=MISSING_MARKS, try_parse_dates=True, infer_schema_length=None, glob=False
        ),
        "jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
        "parquet": lambda path: pl.read_parquet(path, glob=False, hive_partitioning=False),
    }
    tables = [read[kind](path) for path in paths]
    first = tables[0].columns
    for number, table in enumerate(tables):
        if table.columns != first:
            raise ExecutorError(
                INVALID_PAYLOAD, f"inputs.{number}: its columns differ from those of the first"
            )
        if table.width > MAX_COLUMNS:
            raise ExecutorError(INPUT_TOO_LARGE, f"inputs.{number}: more than {MAX_COLUMNS} columns")
    return pl.concat(tables, how="vertical_relaxed")


def _check_memory(error: Exception) -> None:
    """Raise MemoryError if Polars has wrapped one in an error of another type."""
    if "out of memory" in str(error).lower():
        raise MemoryError from None


def _check_header(path: str, number: int) -> None:
    """Raise ExecutorError for a CSV with far too many columns, before Polars makes a column of each."""
    with open(path, "rb") as file:
        header = file.readline(MAX_HEADER_BYTES)
    if header.count(b",") > 10 * MAX_COLUMNS:
        raise ExecutorError(INPUT_TOO_LARGE, f"inputs.{number}: more than {MAX_COLUMNS} columns")


def _check_declared(paths: Sequence[str], max_cells: int) -> None:
    """Raise ExecutorError for a table that is too large by its own words, before anything is unpacked."""
    cells = 0
    for number, path in enumerate(paths):
        width = len(pl.read_parquet_schema(path))
        if width > MAX_COLUMNS:
            raise ExecutorError(INPUT_TOO_LARGE, f"inputs.{number}: more than {MAX_COLUMNS} columns")
        rows = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(pl.len()).collect().item()
        cells += rows * width
    if cells > max_cells:
        raise ExecutorError(
            INPUT_TOO_LARGE, f"inputs: {cells} cells in so few bytes; at most {max_cells} are allowed"
        )


def _write(table: pl.DataFrame, path: Path, kind: str) -> None:
    if kind == "parquet":
        table.write_parquet(path)
    elif kind == "jsonl":
        table.write_ndjson(path)
    else:
        nested = [name for name, kind in table.schema.items() if kind.is_nested() or kind == pl.Binary]
        if nested:
            raise ExecutorError(INVALID_PAYLOAD, f"output_format: {nested[0][:64]} does not fit into csv")
        table.write_csv(path)


def _description(column: pl.Series) -> dict[str, Any]:
    return {"name": column.name[:128], "type": _type_of(column.dtype), "missing": column.null_count()}


def _type_of(kind: pl.DataType) -> str:
    if kind.is_integer():
        return "integer"
    if kind.is_numeric():
        return "number"
    named = {pl.String: "text", pl.Boolean: "boolean", pl.Date: "date", pl.Categorical: "text"}
    return named.get(type(kind), "timestamp" if isinstance(kind, pl.Datetime) else "other")


def _reason(error: Exception) -> str:
    if isinstance(error, pl.exceptions.ColumnNotFoundError):
        return "no such column"
    if isinstance(error, _Unfit):
        return str(error)
    return f"it does not fit the data ({type(error).__name__})"


class _Unfit(ValueError):
    """A step that does not fit its columns; the text is for the client."""


# --- steps: each takes the table, its parameters and a seed -------------------------------------------------
def _columns(table: pl.DataFrame, step: Mapping[str, Any]) -> list[str]:
    wanted = step["columns"] or table.columns
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise _Unfit(f"no column {missing[0]}")
    return list(wanted)


def _numbers(table: pl.DataFrame, step: Mapping[str, Any]) -> list[str]:
    columns = _columns(table, step)
    for name in columns:
        if not table.schema[name].is_numeric():
            raise _Unfit(f"{name} is not a column of numbers; cast it first")
    return columns


def _texts(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    for name in columns:
        if name not in table.columns:
            raise _Unfit(f"no column {name}")
        if table.schema[name] != pl.String:
            raise _Unfit(f"{name} is not a column of text; cast it first")
    return list(columns)


def _select(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    return table.select(_columns(table, step))


def _drop_duplicates(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    return table.unique(_columns(table, step), keep="first", maintain_order=True)


def _drop_missing(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    columns = _columns(table, step)
    floats = [name for name in columns if table.schema[name].is_float()]
    return table.drop_nulls(columns).drop_nans(floats) if floats else table.drop_nulls(columns)


def _fill_missing(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    method = step["with"]
    columns = _numbers(table, step) if method in ("mean", "median") else _columns(table, step)
    filled = []
    for name in columns:
        column = pl.col(name)
        if table.schema[name].is_float():
            column = column.fill_nan(None)
        if method == "constant":
            value = pl.lit(step["value"]).cast(table.schema[name], strict=True)
            filled.append(column.fill_null(value))
        elif method == "previous":
            filled.append(column.forward_fill())
        elif method == "most_frequent":
            filled.append(column.fill_null(column.drop_nulls().mode().min()))
        else:
            filled.append(column.fill_null(column.mean() if method == "mean" else column.median()))
    return table.with_columns(filled)


def _cast(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    strict = step["on_error"] == "fail"
    made = []
    for name in _columns(table, step):
        column, text = pl.col(name), table.schema[name] == pl.String
        match step["to"]:
            case "date" if text:
                made.append(column.str.to_date(strict=strict))
            case "timestamp" if text:
                made.append(column.str.to_datetime(strict=strict, time_zone="UTC"))
            case "boolean" if text:
                made.append(_boolean(table, name, strict))
            case "integer" if text:
                made.append(column.str.strip_chars().cast(pl.Int64, strict=strict))
            case to:
                made.append(column.cast(_DTYPES[to], strict=strict))
    return table.with_columns(made)


def _boolean(table: pl.DataFrame, name: str, strict: bool) -> pl.Expr:
    words = pl.col(name).str.strip_chars().str.to_lowercase()
    true = pl.when(words.is_in(["true", "yes", "1"])).then(True)
    value = true.when(words.is_in(["false", "no", "0"])).then(False).otherwise(None).alias(name)
    if strict and table.select(value.is_null() & pl.col(name).is_not_null()).to_series().any():
        raise _Unfit(f"{name} has a value that is neither true nor false")
    return value


def _scale(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    made = []
    for name in _numbers(table, step):
        column = pl.col(name).cast(pl.Float64)
        if step["method"] == "standard":
            centre, spread = column.mean(), column.std(ddof=0)
        elif step["method"] == "min_max":
            centre, spread = column.min(), column.max() - column.min()
        else:
            low, high = (column.quantile(q, "linear") for q in ROBUST_RANGE)
            centre, spread = column.median(), high - low
        # A column without spread becomes 0, not missing.
        made.append(((column - centre) / pl.when(spread > 0).then(spread).otherwise(1.0)).alias(name))
    return table.with_columns(made)


def _one_hot(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    columns = _columns(table, step)
    for name in columns:
        words = table[name].cast(pl.String)
        counts = words.drop_nulls().value_counts(sort=False).sort(["count", name], descending=[True, False])
        kept = counts[name].to_list()
        rest = len(kept) > step["max_categories"]
        kept = sorted(kept[: step["max_categories"] - rest])
        made = [(words == value).fill_null(False).cast(pl.Int8).alias(f"{name}_{value}") for value in kept]
        if rest:
            others = ~words.is_in(kept) & words.is_not_null()
            made.append(others.fill_null(False).cast(pl.Int8).alias(f"{name}_other"))
        names = [column.name for column in made]
        if len(set(names)) != len(names) or set(names) & set(table.columns):
            raise _Unfit(f"{name} would become a column that exists already")
        table = table.drop(name).with_columns(made)
    return table


def _clean_text(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    columns = _texts(table, _columns(table, step))
    return table.with_columns([pl.Series(name, clean(table[name], step), pl.String) for name in columns])


def _deduplicate_text(table: pl.DataFrame, step: Mapping[str, Any], seed: int) -> pl.DataFrame:
    [name] = _texts(table, [step["column"]])
    return table.filter(pl.Series(first_of_similar(table[name], step["similarity"]), dtype=pl.Boolean))


def _sample(table: pl.DataFrame, step: Mapping[str, Any], seed: int) -> pl.DataFrame:
    rows = pl.Series("row", range(table.height), dtype=pl.Int64)
    return table[rows.sample(fraction=step["fraction"], seed=seed).sort()]


def _shuffle(table: pl.DataFrame, _: Mapping[str, Any], seed: int) -> pl.DataFrame:
    return table.sample(fraction=1.0, shuffle=True, seed=seed)


_DTYPES: Final[dict[str, Any]] = {
    "integer": pl.Int64,
    "number": pl.Float64,
    "text": pl.String,
    "boolean": pl.Boolean,
    "date": pl.Date,
    "timestamp": pl.Datetime("us", "UTC"),
}
_STEPS: Final[dict[str, Callable[[pl.DataFrame, Mapping[str, Any], int], pl.DataFrame]]] = {
    "select": _select,
    "drop_duplicates": _drop_duplicates,
    "drop_missing": _drop_missing,
    "fill_missing": _fill_missing,
    "cast": _cast,
    "scale": _scale,
    "one_hot": _one_hot,
    "clean_text": _clean_text,
    "deduplicate_text": _deduplicate_text,
    "sample": _sample,
    "shuffle": _shuffle,
}


def _split(table: pl.DataFrame, split: Mapping[str, Any], seed: int) -> dict[str, pl.DataFrame]:
    """Puts each row into one part, in order; shares are the same for each value of `stratify_by`."""
    by = split["stratify_by"]
    if by is not None and by not in table.columns:
        raise ExecutorError(INVALID_PAYLOAD, f"split: no column {by}")
    rows = pl.DataFrame({"row": range(table.height)}, schema={"row": pl.Int64})
    groups = [rows] if by is None else rows.with_columns(key=table[by]).partition_by("key")
    chosen: dict[str, list[int]] = {part: [] for part in PARTS}
    for group in groups:
        shuffled = group["row"].sample(fraction=1.0, shuffle=True, seed=seed).to_list()
        first = round(split["train"] * len(shuffled))
        second = round((split["train"] + split["validation"]) * len(shuffled))
        for part, some in zip(
            PARTS, (shuffled[:first], shuffled[first:second], shuffled[second:]), strict=True
        ):
            chosen[part] += some
    return {part: table[sorted(chosen[part])] for part in PARTS if split[part] > 0}


__all__ = ["work"]
