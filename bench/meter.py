"""CPU time and memory of process trees, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from coordinator.servers.processes import family

TICKS = os.sysconf("SC_CLK_TCK")


def _members(pids: Iterable[int]) -> Iterable[int]:
    """These processes and their descendants; of this very process, which started the others, only it."""
    return [pid for given in pids for pid in ([given] if given == os.getpid() else family([given]))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and their descendants."""
    ticks = 0
    for pid in _members(pids):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue  # it ended meanwhile
        fields = stat[stat.rindex(")") + 2 :].split()
        ticks += sum(int(fields[i]) for i in ((11, 12) if pid == os.getpid() else (11, 12, 13, 14)))
    return ticks / TICKS


def rss_mib(pids: Iterable[int]) -> float:
    """Resident memory of these processes and their descendants; shared pages count in each."""
    pages = 0
    for pid in _members(pids):
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Meter:
    """CPU seconds by name since it was made."""

    def __init__(self, trees: Mapping[str, Iterable[int]]) -> None:
        self._trees = {name: tuple(pids) for name, pids in trees.items()}
        self._before = {name: cpu_seconds(pids) for name, pids in self._trees.items()}

    def spent(self) -> dict[str, float]:
        return {name: cpu_seconds(pids) - self._before[name] for name, pids in self._trees.items()}

    def rss(self) -> dict[str, float]:
        return {name: rss_mib(pids) for name, pids in self._trees.items()}
