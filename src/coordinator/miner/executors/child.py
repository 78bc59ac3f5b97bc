"""The program of the process that works on strangers' files: see `in_child.py`, which starts it.

It works in the attempt's folder, reads the plan from a file there, and calls `work(plan, report)` of
`images/child.py` or `data/child.py`. It answers in JSON lines on stdout. It starts for every job, so it
imports what the work needs and no more.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.errors import EXECUTOR_FAILED, RESOURCE_LIMIT, ExecutorError

KINDS: Final = ("images", "data")
PLAN_FILE: Final = "plan.json"
PING: Final[dict[str, Any]] = {"ping": True}
"""A plan that only checks that the child's libraries can be imported under its limits."""
_DETAIL_CHARACTERS: Final = 300


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
