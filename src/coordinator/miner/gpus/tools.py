"""Runs the vendors' tools: each in a process of its own, within a time, and with bounded output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from coordinator.miner.executors.errors import EXECUTOR_TIMEOUT, ExecutorError
from coordinator.miner.executors.process import run_program
from coordinator.miner.gpus.found import Collected, GpuReport, one_line

TIMEOUT_SECONDS: Final = 20.0
"""A tool that wakes eight sleeping cards takes several seconds."""
MAX_OUTPUT_BYTES: Final = 2**20


class ToolFailed(Exception):
    """The tool gave no answer; the text is one line, with the tool's name."""


class _TooMuch(Exception):
    pass


def installed(tool: str) -> bool:
    """Whether this tool is on PATH."""
    return shutil.which(tool) is not None


async def first_answer(
    ways: Mapping[str, Callable[[], Awaitable[Collected]]], *, no_tool: str, gpus: str
) -> GpuReport:
    """The report of the first of these tools that is installed and knows a GPU. Never raises.

    `no_tool` is said where none is installed, and `gpus` names what was looked for.
    """
    problems: list[str] = []
    absent = no_tool
    for tool, ask_it in ways.items():
        if not installed(tool):
            continue
        try:
            found = await ask_it()
        except ToolFailed as error:
            problems.append(str(error))
            continue
        if found.gpus or found.problems:
            return found.report()
        absent = f"{tool} lists no {gpus}"
    return GpuReport(problems=tuple(problems)) if problems else GpuReport(absent=(absent,))


async def ask(*command: str, timeout_seconds: float | None = None) -> str:
    """The stdout of a tool. Raises ToolFailed."""
    tool, seconds = Path(command[0]).name, timeout_seconds or TIMEOUT_SECONDS
    lines: list[str] = []
    size = 0

    def take(line: str) -> None:
        nonlocal size
        size += len(line) + 1
        if size > MAX_OUTPUT_BYTES:
            raise _TooMuch
        lines.append(line)

    try:
        with TemporaryDirectory(prefix="gpu-tool-") as folder:
            finished = await run_program(
                command,
                folder=Path(folder),
                timeout_seconds=seconds,
                limits_data=False,
                max_line_bytes=MAX_OUTPUT_BYTES,
                on_stdout=take,
            )
    except _TooMuch:
        raise ToolFailed(f"{tool} printed more than {MAX_OUTPUT_BYTES} bytes") from None
    except ExecutorError as error:
        slow = error.code == EXECUTOR_TIMEOUT
        raise ToolFailed(
            f"{tool} gave no answer in {seconds:g} s" if slow else f"{tool}: {error.detail}"
        ) from None
    except OSError as error:
        raise ToolFailed(f"{tool} can't be run: {error.strerror}") from None
    if finished.returncode != 0:
        said = finished.stderr.strip().splitlines() or [line for line in lines if line.strip()] or [""]
        why = one_line(said[-1])
        raise ToolFailed(f"{tool} failed with exit code {finished.returncode}" + (f": {why}" if why else ""))
    return "\n".join(lines)


async def ask_json(*command: str, timeout_seconds: float | None = None) -> Any:
    """The JSON that a tool prints, after lines of another kind (warnings). Raises ToolFailed."""
    text = await ask(*command, timeout_seconds=timeout_seconds)
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.lstrip().startswith(("{", "["))), None)
    if start is not None:
        try:
            return json.loads("\n".join(lines[start:]))
        except (ValueError, RecursionError):
            pass
    raise ToolFailed(f"{Path(command[0]).name} printed no JSON")
