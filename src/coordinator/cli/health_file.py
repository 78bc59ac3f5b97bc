"""A file that tells a container's health check whether a miner is registered.

It holds one line: the Unix time in seconds until which the coordinator's last answer counts. A check reads it
without a start of our program, as it runs every few seconds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

MISSED_BEATS: Final = 3
"""So many heartbeats may stay without an answer before the miner counts as unhealthy."""


def told_by(path: Path | None) -> Callable[[float], None]:
    """A function for `MinerProgram.on_answered`. What an earlier miner left in the file is removed now."""
    if path is None:
        return lambda seconds: None
    path.unlink(missing_ok=True)
    new = path.with_name(f"{path.name}.new")

    def answered(seconds: float) -> None:
        # On a full disk the miner works on, and counts as unhealthy.
        with contextlib.suppress(OSError):
            new.write_text(f"{time.time() + MISSED_BEATS * seconds:.0f}\n")
            os.replace(new, path)

    return answered
