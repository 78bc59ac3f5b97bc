"""Ends a child process when its parent ends, for whatever reason.

The parent keeps the other end of our stdin open and never writes to it; when the kernel closes it, the parent
is gone. The parent-death signal of Linux is no substitute: it goes to this process alone, is sent when the
*thread* that started us ends, and exists on Linux only.
"""

from __future__ import annotations

import os
import signal
import threading

VARIABLE = "COORDINATOR_STOP_WITH_STDIN"
"""Set to 1 by the parent."""
GRACE_S = 5.0


def stop_with_parent() -> None:
    """If the parent asked for it: stop this process, in order if it can, once its stdin is closed."""
    # Removed, so that our own children do not take it as meant for them.
    if os.environ.pop(VARIABLE, "") == "1":
        threading.Thread(target=_watch, name="parent-watch", daemon=True).start()


def _watch() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_S)  # a daemon thread: an orderly end does not wait for it
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # together with our own children
    os.kill(os.getpid(), signal.SIGKILL)
