"""Sets the limits of a job's program in its own process, then becomes that program.

`process.py` runs this file by its path: `launch.py PARENT NAME=VALUE,… PROGRAM …`. Limits that are set here
hold from the program's first instruction on, and even if the miner dies. Imports are few: each costs some
milliseconds a job.
"""

import ctypes
import os
import resource
import sys

NOT_STARTED = 127
"""The exit code if the program does not start; the reason is then a line on stderr with PREFIX."""
PREFIX = "launch: "
_SET_PARENT_DEATH_SIGNAL = 1
_SET_NO_NEW_PRIVILEGES = 38
_KILL, _PIPE, _FILE_SIZE = 9, 13, 25
_DEFAULT_ACTION = None


def main(parent: str, limits: str, program: list[str]) -> int:
    for limit in limits.split(","):
        name, _, wanted = limit.partition("=")
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = int(wanted) if hard == resource.RLIM_INFINITY else min(int(wanted), hard)
        resource.setrlimit(kind, (value, value))
    library = ctypes.CDLL(None)
    if sys.platform == "linux":
        # End this process with its parent; let it gain no rights; and let it go first if memory runs out.
        library.prctl(_SET_PARENT_DEATH_SIGNAL, _KILL, 0, 0, 0)
        library.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if os.getppid() != int(parent):
            os.kill(os.getpid(), _KILL)  # the parent died before the signal was asked for
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
        except OSError:
            pass  # a sandbox may hide it
    # Python ignores these, and the program would inherit that: a file beyond its limit has to end it.
    for number in (_PIPE, _FILE_SIZE):
        library.signal(number, _DEFAULT_ACTION)
    try:
        os.execvp(program[0], program)  # noqa: S606 - no shell is the purpose
    except OSError as error:
        sys.stderr.write(f"{PREFIX}{error.strerror}\n")
        return NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
