"""Work on strangers' files in a process of its own, with limits on memory, time and what it writes.

The parent calls `run_in_child("images", plan, …)`. The child is this module as a program: it reads the plan
from a file in the attempt's folder, which is also where it works, and calls `work(plan, report)` of
`child_images`. It answers in JSON lines on stdout. Decoders are where hostile files strike: whatever happens
to the child, the miner gets an error.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.base import (
    EXECUTOR_FAILED,
    EXECUTOR_KILLED,
    INPUT_TOO_LARGE,
    ExecutorError,
)
from coordinator.miner.executors.process import run_program

KINDS: Final = ("images", "data")
PLAN_FILE: Final = "plan.json"
PING: Final[dict[str, Any]] = {"ping": True}
"""A plan that asks whether the child's libraries can be imported under its limits."""
CHECK_SECONDS: Final = 60.0
_CODE_CHARACTERS: Final = 64
_DETAIL_CHARACTERS: Final = 300


async def run_in_child(
    kind: str,
    plan: Mapping[str, Any],
    *,
    folder: Path,
    timeout_seconds: float,
    max_memory_bytes: int,
    max_file_bytes: int,
    on_progress: Callable[[float, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """What the child's work returned.

    Raises ExecutorError: what the work raised; INPUT_TOO_LARGE where it ran out of memory, EXECUTOR_TIMEOUT,
    EXECUTOR_KILLED (a crash, or something else ended it), EXECUTOR_FAILED.
    """
    (folder / PLAN_FILE).write_text(json.dumps(plan))
    answer: list[dict[str, Any]] = []

    def on_line(line: str) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            return  # a library's chatter
        if not isinstance(told, dict):
            return
        if isinstance(told.get("progress"), float):
            on_progress(min(max(told["progress"], 0.0), 0.99), str(told.get("doing", ""))[:40])
        elif not answer:
            answer.append(told)

    finished = await run_program(
        # -I: neither the folder it works in nor anything in the environment can bring in other code.
        [sys.executable, "-I", "-m", "coordinator.miner.executors.child", kind],
        folder=folder,
        timeout_seconds=timeout_seconds,
        max_file_bytes=max_file_bytes,
        max_memory_bytes=max_memory_bytes,
        on_stdout=on_line,
    )
    if answer and isinstance(answer[0].get("done"), dict) and finished.returncode == 0:
        done: dict[str, Any] = answer[0]["done"]
        return done
    if answer and isinstance(answer[0].get("error"), list):
        code, detail, retryable = [*answer[0]["error"], "", False][:3]
        raise ExecutorError(str(code)[:_CODE_CHARACTERS], str(detail), retryable=retryable is True)
    if finished.returncode < 0:
        # Out of memory looks like this, too, where a library does not ask before it dies: not worth a retry.
        raise ExecutorError(
            EXECUTOR_KILLED, f"the work was ended by signal {-finished.returncode}: a crash, or out of memory"
        )
    raise ExecutorError(EXECUTOR_FAILED, "the work broke off without a word", retryable=True)


def output_of(folder: Path, name: str) -> Path:
    """A file that the child says it has made: in the folder, and no link to elsewhere."""
    path = folder / name
    if Path(name).name != name or path.is_symlink() or not path.is_file():
        raise ExecutorError(EXECUTOR_FAILED, "the work did not leave the file that it should have")
    return path


def _main() -> int:
    kind = sys.argv[1]
    assert kind in KINDS

    def say(**told: Any) -> None:
        print(json.dumps(told), flush=True)  # noqa: T201 - this is how the child speaks

    def report(fraction: float, doing: str) -> None:
        say(progress=float(fraction), doing=doing)

    try:
        plan = json.loads(Path(PLAN_FILE).read_text())
        module = importlib.import_module(f"coordinator.miner.executors.{kind}.child")
        say(done={} if plan == PING else module.work(plan, report))
    except ExecutorError as error:
        say(error=[error.code, error.detail[:_DETAIL_CHARACTERS], error.retryable])
    except MemoryError:
        say(error=[INPUT_TOO_LARGE, "this takes more memory than one job may have", False])
    except ImportError as error:
        say(error=[EXECUTOR_FAILED, f"{error.name} is not installed", True])
    except Exception as error:
        # Its words may hold what is in the file, or where the file is.
        say(error=[EXECUTOR_FAILED, f"the work broke off ({type(error).__name__})", False])
    return 0


if __name__ == "__main__":
    sys.exit(_main())
