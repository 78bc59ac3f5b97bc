"""CPU time and peak memory of process trees, from /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from coordinator.dev.servers.processes import family

TICKS = os.sysconf("SC_CLK_TCK")
KIB_PER_MIB = 1024


class Meter:
    """The usage of each process tree since the meter was made."""

    def __init__(self, trees: Mapping[str, int]) -> None:
        """`trees`: the root process of each tree, by name."""
        self._trees = dict(trees)
        for root in self._trees.values():
            for pid in family([root]):
                # Resets the peak (see proc(5)); without permission it is the peak of the process's life.
                with contextlib.suppress(OSError):
                    Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._before = {name: cpu_seconds(root) for name, root in self._trees.items()}

    def cpu_seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(root) - self._before[name] for name, root in self._trees.items()}

    def peak_mib(self) -> dict[str, float]:
        return {name: peak_mib(root) for name, root in self._trees.items()}


def cpu_seconds(root: int) -> float:
    """User and system time of a process and its descendants, with those that ended and were waited for."""
    ticks = 0
    for pid in family([root]):
        with contextlib.suppress(OSError):  # it ended meanwhile; its parent's sum includes it
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


def peak_mib(root: int) -> float:
    """Peak resident memory of a process and its descendants.

    The sum of their own peaks; shared memory (Postgres' buffers) counts once, at its greatest size.
    """
    own, shared = 0, 0
    for pid in family([root]):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            sizes = {
                line.partition(":")[0]: int(line.split()[1])
                for line in status.splitlines()
                if line.startswith(("VmHWM:", "RssShmem:"))
            }
            own += sizes.get("VmHWM", 0) - sizes.get("RssShmem", 0)
            shared = max(shared, sizes.get("RssShmem", 0))
    return (own + shared) / KIB_PER_MIB
