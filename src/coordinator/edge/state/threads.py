"""The edge's own threads, for calls that would block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_THREADS = ThreadPoolExecutor(32, thread_name_prefix="edge")


async def in_thread(call: Callable[[], T]) -> T:
    """Run a blocking call beside the event loop.

    Uploads and other work in the framework's threads do not delay it. A cancelled caller does not wait for
    the end of the call.
    """
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)
