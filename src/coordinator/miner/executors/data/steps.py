"""The steps of `data_processing`: each takes a table, its parameters and a seed, and returns a table.

Every step is a Polars expression: there is no query language for a client to inject text into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import polars as pl
import polars.selectors as cs

from coordinator.miner.executors.data.column_types import convert, named, not_fitting
from coordinator.miner.executors.data.faults import Unfit, shown
from coordinator.miner.executors.data.text import clean, first_of_similar
from coordinator.miner.executors.errors import INVALID_PAYLOAD, ExecutorError

PARTS: Final = ("train", "validation", "test")
ROBUST_RANGE: Final = (0.25, 0.75)
"""The quartiles, between which a robust scale is 1."""


def apply_step(table: pl.DataFrame, step: Mapping[str, Any], seed: int) -> pl.DataFrame:
    """The table after the step. Raises Unfit, and Polars' errors."""
    return _STEPS[step["step"]](table, step, seed)


def _column(name: str) -> pl.Expr:
    """The column of exactly this name: `pl.col` takes `*` and `^…$` for patterns."""
    return cs.by_name(name).as_expr()


def _check_there(table: pl.DataFrame, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in table.columns:
            raise Unfit(f"no column {shown(name)}; {named(table.columns)}")


def _columns(table: pl.DataFrame, step: Mapping[str, Any]) -> list[str]:
    wanted = step["columns"] or table.columns
    _check_there(table, wanted)
    return list(wanted)


def _numbers(table: pl.DataFrame, step: Mapping[str, Any]) -> list[str]:
    columns = _columns(table, step)
    for name in columns:
        if not table.schema[name].is_numeric():
            raise Unfit(
                f"{shown(name)} is not a column of numbers; give it the type number in types, "
                "or cast it before"
            )
    return columns


def _texts(table: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    _check_there(table, columns)
    for name in columns:
        if table.schema[name] != pl.String:
            raise Unfit(f"{shown(name)} is not a column of text; cast it to text before")
    return list(columns)


def _select(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    return table.select(cs.by_name(*_columns(table, step)))


def _drop_duplicates(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    return table.unique(cs.by_name(*_columns(table, step)), keep="first", maintain_order=True)


def _drop_missing(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    columns = _columns(table, step)
    floats = [name for name in columns if table.schema[name].is_float()]
    table = table.drop_nulls(cs.by_name(*columns))
    return table.drop_nans(cs.by_name(*floats)) if floats else table


def _fill_missing(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    method = step["with"]
    columns = _numbers(table, step) if method in ("mean", "median") else _columns(table, step)
    filled = []
    for name in columns:
        column = _column(name)
        if table.schema[name].is_float():
            column = column.fill_nan(None)
        if method == "constant":
            filled.append(column.fill_null(_constant(name, table.schema[name], step["value"])))
        elif method == "previous":
            filled.append(column.forward_fill())
        elif method == "most_frequent":
            filled.append(column.fill_null(column.drop_nulls().mode().min()))
        else:
            filled.append(column.fill_null(column.mean() if method == "mean" else column.median()))
    return table.with_columns(filled)


def _constant(name: str, kind: pl.DataType, value: Any) -> Any:
    if kind.is_nested() or kind == pl.Binary:
        raise Unfit(f"{shown(name)} is not a column of single values; cast it to text before")
    try:
        if kind.is_integer() and isinstance(value, float) and not value.is_integer():
            raise ValueError
        return pl.Series(name, [value]).cast(kind, strict=True)[0]
    except (pl.exceptions.PolarsError, ValueError):
        raise Unfit(f"value does not fit {shown(name)}, a column of type {kind}") from None


def _cast(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    made = []
    for name in _columns(table, step):
        column, row = convert(table[name], step["to"], decimal_comma=step.get("decimal_comma", False))
        if row is not None and step["on_error"] == "fail":
            raise Unfit(
                f"row {row + 1}, {not_fitting(name, step['to'])}; correct the cell, add its text to missing, "
                "or set on_error to null"
            )
        made.append(column)
    return table.with_columns(made)


def _scale(table: pl.DataFrame, step: Mapping[str, Any], _: int) -> pl.DataFrame:
    made = []
    for name in _numbers(table, step):
        column = _column(name).cast(pl.Float64)
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
        if table.schema[name].is_nested():
            raise Unfit(f"{shown(name)} is a column of nested values; cast it to text before")
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
            raise Unfit(f"{shown(name)} would become a column that exists already")
        table = table.drop(cs.by_name(name)).with_columns(made)
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


def split_rows(table: pl.DataFrame, split: Mapping[str, Any], seed: int) -> dict[str, pl.DataFrame]:
    """Puts each row into one part, in order; shares are the same for each value of `stratify_by`."""
    by = split["stratify_by"]
    if by is not None and by not in table.columns:
        raise ExecutorError(INVALID_PAYLOAD, f"split: no column {shown(by)}; {named(table.columns)}")
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
