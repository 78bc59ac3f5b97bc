"""The part of this machine that one job may use.

A machine's memory, disk and processors are divided by the miner's slots. An executor asks for the smaller of
this share and its service's own limit.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

MEMORY_PART: Final = 0.8
"""The part of the main memory for all jobs together; the rest is for the miner and the system."""
DISK_PART: Final = 0.8
"""The part of the free disk space for all jobs together."""
LEAST_MEMORY_BYTES: Final = 256 * 2**20
"""With less than this no decoder starts."""
_MEBIBYTE: Final = 2**20
_UNKNOWN_DISK_BYTES: Final = 2**40
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")
_UNLIMITED: Final = 2**60
"""A cgroup of version 1 without a limit says a number above this."""


class Bound(NamedTuple):
    """A limit in bytes. `here`: this machine's share is the limit, so another miner may allow more."""

    bytes: int
    here: bool = False

    def __str__(self) -> str:
        return f"{max(1, self.bytes // _MEBIBYTE)} MiB"


@dataclass(frozen=True, slots=True)
class Share:
    """One job's part of this machine: main memory, disk space for its folder, and processors."""

    memory_bytes: int
    disk_bytes: int
    processors: int

    def memory(self, at_most: int | None = None) -> Bound:
        """The memory for a job whose service allows `at_most`; None is no limit of the service's."""
        return _smaller(self.memory_bytes, at_most)

    def disk(self, at_most: int | None = None) -> Bound:
        """The disk space for a job whose service allows `at_most`; None is no limit of the service's."""
        return _smaller(self.disk_bytes, at_most)


def share_of_machine(slots: int = 1, *, memory_bytes: int | None = None, folder: Path | None = None) -> Share:
    """The share of one of `slots` jobs. `memory_bytes` is the owner's own limit for one job.

    `folder` holds the jobs' temporary folders; None is the system's. Blocks for a moment.
    """
    memory = int(memory_of_machine() * MEMORY_PART) // slots
    try:
        free = shutil.disk_usage(folder or tempfile.gettempdir()).free
    except OSError:
        free = _UNKNOWN_DISK_BYTES
    return Share(
        memory_bytes=memory_bytes or max(memory, LEAST_MEMORY_BYTES),
        disk_bytes=int(free * DISK_PART) // slots,
        processors=max(1, processors_of_machine() // slots),
    )


@cache
def whole_machine() -> Share:
    """The share of a program that runs alone, such as an executor's check."""
    return share_of_machine()


def processors_of_machine() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_of_machine() -> int:
    """The main memory in bytes, or less if the container or service of this process may use only less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_cgroup_limits()])


def _cgroup_limits() -> Iterator[int]:
    """The memory limits of the control groups of this process; none where there are none."""
    with suppress(OSError, ValueError):
        for line in _OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, name = _CGROUPS, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
            else:
                continue
            group = root / path.lstrip("/")
            # In a container the path may be the host's; the root is then the container's own group.
            for folder in (group, *group.parents, root):
                with suppress(OSError, ValueError):
                    limit = int((folder / name).read_text())
                    if limit < _UNLIMITED:
                        yield limit
                if folder == root:
                    break


def _smaller(share: int, at_most: int | None) -> Bound:
    if at_most is None or share < at_most:
        return Bound(share, here=True)
    return Bound(at_most)
