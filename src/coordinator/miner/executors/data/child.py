"""Tables with Polars in a child process, which calls `work`.

Values pass unchanged; a cell that a spreadsheet would read as a formula stays as it was.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("POLARS_MAX_THREADS", "2")

import polars as pl

from coordinator.miner.executors.data.faults import MAX_COLUMNS, Unfit
from coordinator.miner.executors.data.reading import check_memory, read_table
from coordinator.miner.executors.data.steps import apply_step, split_rows
from coordinator.miner.executors.data.writing import type_of, write
from coordinator.miner.executors.errors import INPUT_TOO_LARGE, INVALID_PAYLOAD, ExecutorError


def work(plan: Mapping[str, Any], report: Callable[[float, str], None]) -> dict[str, Any]:
    """`{inputs, input_format, …, steps, split, seed, output_format, max_cells}` → the result, with `files`.

    Raises ExecutorError: INVALID_PAYLOAD for unreadable files and steps that do not fit the columns.
    """
    seed = secrets.randbelow(2**53) if plan["seed"] is None else plan["seed"]
    notes: list[str] = []
    try:
        table = read_table(plan, notes)
    except (pl.exceptions.PolarsError, OSError) as error:
        check_memory(error)
        raise ExecutorError(
            INVALID_PAYLOAD, f"inputs: can't be read as {plan['input_format']}; is input_format right?"
        ) from None
    for path in plan["inputs"]:
        Path(path).unlink()
    rows_read, steps = table.height, []
    for number, step in enumerate(plan["steps"]):
        report(0.2 + 0.6 * number / len(plan["steps"]), step["step"])
        table = _after(table, step, number, plan, seed)
        steps.append({"step": step["step"], "rows": table.height})
    report(0.8, "writing")
    parts = split_rows(table, plan["split"], seed) if plan["split"] else {"dataset": table}
    files = []
    raw = plan["input_format"] == "jsonl"
    for name, part in parts.items():
        file = f"{name}.{plan['output_format']}"
        write(part, Path(file), plan["output_format"], notes, raw=raw)
        files.append(file)
    return {
        "rows_read": rows_read,
        "rows_written": sum(part.height for part in parts.values()),
        "steps": steps,
        "columns": [
            {"name": column.name[:128], "type": type_of(column.dtype), "missing": column.null_count()}
            for column in table.get_columns()
        ],
        "files": files,
        "notes": list(dict.fromkeys(notes)),
    }


def _after(
    table: pl.DataFrame, step: Mapping[str, Any], number: int, plan: Mapping[str, Any], seed: int
) -> pl.DataFrame:
    try:
        table = apply_step(table, {**step, "decimal_comma": plan["csv"]["decimal_comma"]}, seed + number)
    except Unfit as unfit:
        raise ExecutorError(INVALID_PAYLOAD, f"steps.{number}: {unfit}") from None
    except (pl.exceptions.PolarsError, ValueError, TypeError, OverflowError) as error:
        check_memory(error)
        raise ExecutorError(
            INVALID_PAYLOAD,
            f"steps.{number}: {step['step']} does not fit the types of its columns; cast them before",
        ) from None
    if table.width > MAX_COLUMNS or not table.width:
        raise ExecutorError(INPUT_TOO_LARGE, f"steps.{number}: leaves {table.width} columns")
    return table


__all__ = ["work"]
