"""Work on strangers' files in a process of its own, with limits on memory, time and written files.

`run_in_child("images", plan, …)` starts `child.py` as a program. Hostile files attack decoders: if the child
crashes, the miner gets an error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.child import PLAN_FILE
from coordinator.miner.executors.errors import EXECUTOR_FAILED, RESOURCE_LIMIT, ExecutorError
from coordinator.miner.executors.limits import Bound
from coordinator.miner.executors.process import killed, run_program
from coordinator.miner.executors.usage import out_of_memory, too_much_memory

CHECK_SECONDS: Final = 60.0
MAX_ANSWER_BYTES: Final = 4 * 2**20
"""A longer answer is cut, and so invalid: a result must fit into 1 MiB."""
_CODE_CHARACTERS: Final = 64


async def run_in_child(
    kind: str,
    plan: Mapping[str, Any],
    *,
    folder: Path,
    timeout_seconds: float,
    max_memory: Bound,
    max_disk: Bound,
    max_file_bytes: int,
    on_progress: Callable[[float, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """The value that the child's work returned.

    Raises ExecutorError: the work's own; RESOURCE_LIMIT if it ran out of memory or disk space,
    OUTPUT_TOO_LARGE, EXECUTOR_TIMEOUT, EXECUTOR_KILLED (a crash, or a kill from outside), EXECUTOR_FAILED.
    """
    (folder / PLAN_FILE).write_text(json.dumps(plan))
    answer: list[dict[str, Any]] = []

    def on_line(line: str) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            return  # printed by a library
        if not isinstance(message, dict):
            return
        if isinstance(message.get("progress"), float):
            on_progress(min(max(message["progress"], 0.0), 0.99), str(message.get("note", ""))[:40])
        elif not answer:
            answer.append(message)

    finished = await run_program(
        # -I: neither the working folder nor the environment can bring in other code.
        [sys.executable, "-I", "-m", "coordinator.miner.executors.child", kind],
        folder=folder,
        timeout_seconds=timeout_seconds,
        max_file_bytes=max_file_bytes,
        max_memory=max_memory,
        max_disk=max_disk,
        max_line_bytes=MAX_ANSWER_BYTES,
        on_stdout=on_line,
    )
    if answer and isinstance(answer[0].get("done"), dict) and finished.returncode == 0:
        done: dict[str, Any] = answer[0]["done"]
        return done
    if answer and isinstance(answer[0].get("error"), list):
        code, detail, retryable = [*answer[0]["error"], "", False][:3]
        if code == RESOURCE_LIMIT:
            raise too_much_memory(max_memory)
        raise ExecutorError(str(code)[:_CODE_CHARACTERS], str(detail), retryable=retryable is True)
    if finished.returncode < 0:
        if out_of_memory(finished.stderr):
            raise too_much_memory(max_memory)
        raise killed(finished.returncode)
    raise ExecutorError(EXECUTOR_FAILED, "the work ended without a result", retryable=True)


def output_of(folder: Path, name: str) -> Path:
    """A file that the child has made: inside the folder, and not a symbolic link."""
    path = folder / name
    if Path(name).name != name or path.is_symlink() or not path.is_file():
        raise ExecutorError(EXECUTOR_FAILED, "the work did not make its output file")
    return path
