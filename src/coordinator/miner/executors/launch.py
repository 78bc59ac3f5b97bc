"""Sets the limits of a job's program in its own process, then becomes that program.

`process.py` runs this file by its path, without any other module of ours: `launch.py LIMITS PROGRAM …`.
Limits that are set here hold from the program's first instruction on, and even if the miner dies.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

NOT_STARTED: Final = 127
"""The exit code if the program does not start; the reason is then a line on stderr with PREFIX."""
PREFIX: Final = "launch: "
_SET_PARENT_DEATH_SIGNAL: Final = 1
_SET_NO_NEW_PRIVILEGES: Final = 38


def main(arguments: list[str]) -> int:
    plan: dict[str, Any] = json.loads(arguments[0])
    for name, wanted in plan["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
    if sys.platform == "linux":
        _tie_to(plan["parent"])
    # Python ignores these, and the program would inherit that: a file beyond its limit has to end it.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(arguments[1], arguments[1:])  # noqa: S606 - no shell is the purpose
    except OSError as error:
        sys.stderr.write(f"{PREFIX}{error.strerror}\n")
        return NOT_STARTED


def _tie_to(parent: int) -> None:
    """End this process with its parent; let it gain no rights; and let it go first if memory runs out."""
    process_control = ctypes.CDLL(None, use_errno=True).prctl
    process_control(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    process_control(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)  # the parent died before the signal was asked for
    with suppress(OSError):  # a sandbox may hide it
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
