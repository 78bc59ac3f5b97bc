"""The memory and disk space that a job's processes use, and the watch that ends a job that uses too much.

The kernel's limits are for one process each. The watch adds up all processes of a job, and the files in its
folder, which no kernel limit bounds.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from coordinator.miner.executors.errors import RESOURCE_LIMIT, ExecutorError
from coordinator.miner.executors.limits import Bound

WATCH_SECONDS: Final = 0.1
"""Time between two looks at the processes."""
DISK_WATCH_SECONDS: Final = 1.0
"""The least time between two looks at the folder; large folders are looked at less often."""
MAX_PROCESSES: Final = 64
"""The most processes of one job at a time."""
_BLOCK_BYTES: Final = 512
_OUT_OF_MEMORY: Final = (
    "Cannot allocate memory",
    "memory allocation of",  # Rust's, as in Polars
    "MemoryError",
    "std::bad_alloc",
    "malloc of size",  # libx264
)


async def watch(pid: int, folder: Path, memory: Bound, disk: Bound) -> ExecutorError:
    """Returns the error once the program `pid` and its descendants exceed a limit; never, if they do not."""
    next_look = time.monotonic() + DISK_WATCH_SECONDS
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        processes = family(pid)
        if len(processes) > MAX_PROCESSES:
            return ExecutorError(RESOURCE_LIMIT, f"the work started more than {MAX_PROCESSES} processes")
        if sum(map(memory_of, processes)) > memory.bytes:
            return too_much_memory(memory)
        if time.monotonic() >= next_look:
            started = time.monotonic()
            if await asyncio.to_thread(disk_usage, folder) > disk.bytes:
                return too_much_disk(disk)
            now = time.monotonic()
            next_look = now + max(DISK_WATCH_SECONDS, 20 * (now - started))


def too_much_memory(memory: Bound) -> ExecutorError:
    """The error of work that needs more memory than a job may have."""
    return ExecutorError(
        RESOURCE_LIMIT,
        f"the work takes more than {memory} of memory; send less at once",
        retryable=memory.here,
    )


def too_much_disk(disk: Bound) -> ExecutorError:
    """The error of work that writes more than a job may."""
    return ExecutorError(
        RESOURCE_LIMIT, f"the work's files take more than {disk}; send less at once", retryable=disk.here
    )


def out_of_memory(stderr: str) -> bool:
    """Whether a program's last words say that the system refused it memory."""
    return any(words in stderr for words in _OUT_OF_MEMORY)


def family(pid: int) -> list[int]:
    """The process and its living descendants, as far as the kernel tells them."""
    found = [pid]
    for one in found:
        with suppress(OSError, ValueError):
            for thread in os.listdir(f"/proc/{one}/task"):
                children = Path(f"/proc/{one}/task/{thread}/children").read_text()
                found += [int(child) for child in children.split()]
        if len(found) > MAX_PROCESSES:
            break
    return found


def memory_of(pid: int) -> int:
    """The bytes of main memory that are this process's own: files that it maps are not."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0  # it has ended, or there is no /proc
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def disk_usage(folder: Path) -> int:
    """The bytes on disk of all files below a folder. Blocks."""
    return sum(_sizes(str(folder)))


def _sizes(folder: str) -> Iterator[int]:
    folders = [folder]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
