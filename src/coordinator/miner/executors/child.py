"""Work on strangers' files in a process of its own, with limits on memory, time and written files.

The parent calls `run_in_child("images", plan, …)`. The child is this module as a program: it works in the
attempt's folder, reads the plan from a file there, and calls `work(plan, report)` of `images/child.py`. It
answers in JSON lines on stdout. Hostile files attack decoders: if the child crashes, the miner gets an error.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.base import EXECUTOR_FAILED, RESOURCE_LIMIT, ExecutorError
from coordinator.miner.executors.limits import Bound
from coordinator.miner.executors.process import killed, run_program
from coordinator.miner.executors.usage import out_of_memory, too_much_memory

KINDS: Final = ("images", "data")
PLAN_FILE: Final = "plan.json"
PING: Final[dict[str, Any]] = {"ping": True}
"""A plan that only checks that the child's libraries can be imported under its limits."""
CHECK_SECONDS: Final = 60.0
MAX_ANSWER_BYTES: Final = 4 * 2**20
"""A longer answer is cut, and so invalid: a result must fit into 1 MiB."""
_CODE_CHARACTERS: Final = 64
_DETAIL_CHARACTERS: Final = 300


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


def _main() -> int:
    kind = sys.argv[1]
    assert kind in KINDS
    # Python ignores it; here it ends work that writes a file beyond its limit.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    def send(**message: Any) -> None:
        print(json.dumps(message), flush=True)  # noqa: T201 - the parent reads stdout

    def report(fraction: float, note: str) -> None:
        send(progress=float(fraction), note=note)

    try:
        plan = json.loads(Path(PLAN_FILE).read_text())
        module = importlib.import_module(f"coordinator.miner.executors.{kind}.child")
        send(done={} if plan == PING else module.work(plan, report))
    except ExecutorError as error:
        send(error=[error.code, error.detail[:_DETAIL_CHARACTERS], error.retryable])
    except MemoryError:
        send(error=[RESOURCE_LIMIT, "out of memory", False])
    except ImportError as error:
        send(error=[EXECUTOR_FAILED, f"{error.name} is not installed", True])
    except Exception as error:
        # The error's text may hold content or the path of the file.
        send(error=[EXECUTOR_FAILED, f"the work failed ({type(error).__name__})", False])
    return 0


if __name__ == "__main__":
    sys.exit(_main())
