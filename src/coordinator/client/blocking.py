"""The same methods for programs that are not asynchronous: each runs on an event loop in a thread of its own.

A class of such methods names each one once:

    class Coordinator(Facade[AsyncCoordinator]):
        submit = blocking(AsyncCoordinator.submit, Job)
        jobs = iterating(AsyncCoordinator.jobs)

Parameters, types and docstrings are those of the asynchronous method, for people, editors and type checkers.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")
U = TypeVar("U")
_END = object()


class LoopThread:
    """An event loop on a thread of its own, begun with the first call. Any thread may call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun_in = 0
        self._lock = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, or raises. An interrupt (Ctrl-C) cancels it.

        Raises RuntimeError on the loop's own thread, after `close`, and in a fork of the process.
        """
        try:
            loop = self._running()
        except RuntimeError:
            work.close()
            raise
        call = _Call(work)
        try:
            # An interrupt may come anywhere in this line, also when the work has begun and no future is here.
            return asyncio.run_coroutine_threadsafe(call.run(), loop).result()
        except BaseException:
            loop.call_soon_threadsafe(call.abandon)
            raise

    def close(self) -> None:
        """Stop the thread. May be called twice."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None and self._begun_in == os.getpid():
            self._finalizer()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise RuntimeError("this client was closed")
            if self._loop is None:
                self._begin()
            assert self._loop is not None
            if self._begun_in != os.getpid():
                raise RuntimeError("this client was made before the process forked: make one in each process")
            if threading.get_ident() == self._thread.ident:
                raise RuntimeError("called from a callback of this client, which would wait for itself")
            return self._loop

    def _begin(self) -> None:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="coordinator client", daemon=True)
        self._thread.start()
        self._begun_in = os.getpid()
        # Also where nobody calls close: the thread ends with the client.
        self._finalizer = weakref.finalize(self, _end, loop, self._thread)


class _Call(Generic[T]):
    """Work on its way to the loop's thread, which may be abandoned before it is there."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self._abandoned = False

    async def run(self) -> T:
        self._task = asyncio.current_task()
        if self._abandoned:
            self._work.close()
            raise asyncio.CancelledError
        return await self._work

    def abandon(self) -> None:
        """Cancel it, if it is not done. Called on the loop's thread."""
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    async def cancel_all() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await loop.shutdown_asyncgens()
        loop.stop()

    if thread.ident == threading.get_ident():  # the collector ran here
        loop.stop()
        return
    asyncio.run_coroutine_threadsafe(cancel_all(), loop)
    thread.join()
    loop.close()


class Facade(Generic[A]):
    """What has blocking methods: `inner` is the asynchronous object whose work they do."""

    def __init__(self, thread: LoopThread, inner: A) -> None:
        self._thread = thread
        self._inner = inner


@overload
def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Facade[A], P], T]: ...
@overload
def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]], kind: Callable[[LoopThread, T], U]
) -> Callable[Concatenate[Facade[A], P], U]: ...
def blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
    kind: Callable[[LoopThread, T], Any] | None = None,
) -> Callable[Concatenate[Facade[A], P], Any]:
    """The method of a facade that waits for this one. `kind` makes a facade of what it returns."""

    @functools.wraps(method)
    def wait(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        found = self._thread.run(method(self._inner, *args, **kwargs))
        return found if kind is None else kind(self._thread, found)

    return wait


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Facade[A], P], Iterator[T]]:
    """The method of a facade that goes through what this one yields."""

    @functools.wraps(method)
    def iterate(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._inner, *args, **kwargs)

        async def step() -> Any:
            return await anext(items, _END)

        async def leave() -> None:
            await items.aclose()

        try:
            while (item := self._thread.run(step())) is not _END:
                yield item
        finally:
            if not self._thread.closed:
                self._thread.run(leave())

    return iterate
