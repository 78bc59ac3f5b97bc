"""Settings of the garbage collector and of the allocator below it.

They are for many short-lived objects: under load, and to read a whole log. Commands, events and answers form
no cycles, so reference counting frees nearly all of them at once. With Python's own thresholds the collector
would visit each of them several times before. Connections cut their cycles when they are lost.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

THRESHOLDS = (200_000, 400, 20)
"""The first: by how many objects their number may grow before the new ones are visited, which takes 50 ms and
more for so many. Full caches exchange their entries and do not grow; 50,000 is less than they breathe. The
second: after so many looks at new objects, the next one is at all that came since."""
LOOK_SECONDS: Final = 1.0
LOOK_OBJECTS: Final = 10_000
"""A second's new objects are visited if they are so many: some milliseconds now instead of 100 ms once, in
which nothing else runs. 1,000 connections of miners come to 65,000 objects. Not after each 10,000 objects:
under load so many come and go within a batch."""
LARGE_BYTES = 1024 * 1024
"""Blocks of this size get pages of their own, which the system has back once they are freed. New pages cost
twenty times as much as memory that is at hand, so the blocks of ordinary batches are smaller."""
_M_MMAP_THRESHOLD = -3  # from malloc.h


def collect_rarely() -> None:
    """For the rest of this process: exempt the loaded objects, and collect less often. On the event loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    _keep_looking(asyncio.get_running_loop())


def look_at_new_objects() -> bool:
    """Collect among the new objects, if they are many; returns whether they were."""
    if gc.get_count()[0] < LOOK_OBJECTS:
        return False
    gc.collect(0)
    return True


def _keep_looking(loop: asyncio.AbstractEventLoop) -> None:
    # On the event loop: what a finaliser closes may belong to it.
    look_at_new_objects()
    loop.call_later(LOOK_SECONDS, _keep_looking, loop)


def return_large_blocks() -> None:
    """Let the allocator return every large block; otherwise it raises its own bound with the first ones."""
    if (mallopt := _of_allocator("mallopt")) is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def return_free_memory() -> None:
    """Give the system back all pages without a block in use, in a thread: it takes some milliseconds."""
    if (malloc_trim := _of_allocator("malloc_trim")) is not None:
        threading.Thread(target=malloc_trim, args=(0,), name="return-memory", daemon=True).start()


def _of_allocator(name: str) -> Callable[..., int] | None:
    """A function of the C library's allocator; None if it has no such function (it is not glibc)."""
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # TypeError: on Windows
        return None
    return found


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Collect less often within the block: a fold of the log takes a quarter less time."""
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
