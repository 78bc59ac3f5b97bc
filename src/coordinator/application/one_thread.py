"""One thread for blocking calls, one after the other.

Like an executor with one worker, at half its cost: a call is one future and one wake-up of the event loop,
and not a chain of two futures. Every lone command waits for such a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Call = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any]"]


class OneThread:
    """Used on one event loop. The thread begins with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def call(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Call it after the calls before it. If the future is cancelled, a call that has begun goes on."""
        if self._stopped:
            raise RuntimeError(f"the thread {self._name} has stopped")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put((function, arguments, future))
        return future

    def stop(self) -> None:
        """Finish the calls so far; blocks until then. May be called twice."""
        self._stopped = True
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            function, arguments, future = call
            if future.cancelled():
                continue
            loop = future.get_loop()
            # A loop that is closed takes no outcome: nobody waits for it any more.
            with contextlib.suppress(RuntimeError):
                try:
                    outcome = function(*arguments)
                except BaseException as error:
                    loop.call_soon_threadsafe(_fail, future, error)
                else:
                    loop.call_soon_threadsafe(_succeed, future, outcome)
            del call, function, arguments, future  # not until the next call


def _succeed(future: asyncio.Future[Any], outcome: Any) -> None:
    if not future.done():
        future.set_result(outcome)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
