"""A worker of pytest-xdist ends with the process that started it, also when that one was killed.

By itself a worker notices only when its test has ended, and first runs those that it was told of already.
"""

from __future__ import annotations

import os
import signal
import threading

LOOK_EVERY_SECONDS = 0.5


def end_with_parent() -> None:
    """Kill this process once its parent is gone. Our servers and processes then notice in turn."""
    threading.Thread(target=_watch, args=[os.getppid()], name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(LOOK_EVERY_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
