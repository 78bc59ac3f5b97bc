"""Work on large documents: off the event loop, one document at a time.

Python code in a thread hands the interpreter's lock back every few milliseconds, so the loop goes on; several
such threads would take most of its turns. Code that keeps the lock (the JSON parser, the schema validator) is
bounded by the size of the document instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import orjson

LARGE_BYTES: Final = 16 * 1024
"""Smaller documents take less time than the way to the thread and back."""

T = TypeVar("T")


class LargeDocuments:
    """Runs functions on documents of LARGE_BYTES and more in its thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-documents")

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of this function; raises its exceptions."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def rough_json(value: Any) -> bytes:
    """The JSON of a parsed document, for its size; keys and numbers are not canonical."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits or a lone surrogate, which no edge lets through
        return bytes(LARGE_BYTES)
