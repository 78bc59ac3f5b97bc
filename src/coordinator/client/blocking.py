"""Blocking methods out of asynchronous ones, which run on an event loop in a thread of its own.

A class of such methods names each one once:

    class Coordinator(Facade[AsyncCoordinator]):
        submit = blocking(AsyncCoordinator.submit, Job)
        jobs = iterating(AsyncCoordinator.jobs)

Parameters, types and docstrings are the asynchronous method's, for people, editors and type checkers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")
U = TypeVar("U")
_END = object()
INTERRUPT_SECONDS: Final = 0.2
"""The longest time until Ctrl-C takes effect."""


class LoopThread:
    """An event loop on a thread of its own, started by the first call. Any thread may call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_in = 0
        # Reentrant: the garbage collector may close an iterator of this client while the lock is held.
        self._lock = threading.RLock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The value that `work` returns, or its exception. An interrupt (Ctrl-C) cancels it.

        Raises RuntimeError on the loop's own thread, after `close`, and in a fork of the process.
        """
        call = _Call(work)
        try:
            with self._lock:  # so that `close` comes either before, or finds the work on the loop
                self._running().call_soon_threadsafe(call.begin)
        except RuntimeError:
            work.close()
            raise
        except BaseException:
            self._abandon(call)
            raise
        try:
            return call.result()
        except BaseException:
            self._abandon(call)
            raise

    def close(self) -> None:
        """Stop the thread, and wait for its end. May be called twice."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None and self._started_in == os.getpid():
            self._finalizer()
            self._thread.join()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise RuntimeError("this client was closed")
        if self._loop is None:
            self._begin()
        assert self._loop is not None
        if self._started_in != os.getpid():
            raise RuntimeError("this client was made before the process forked: make one in each process")
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError("called from a callback of this client, which would wait for itself")
        return self._loop

    def _abandon(self, call: _Call[Any]) -> None:
        """Cancel the call unless it is done: its caller no longer waits."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed meanwhile: all its work is cancelled
                loop.call_soon_threadsafe(call.abandon)

    def _begin(self) -> None:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(loop,), name="coordinator client", daemon=True)
        self._thread.start()
        self._started_in = os.getpid()
        # If nobody calls `close`, the thread still ends with the client.
        self._finalizer = weakref.finalize(self, _stop, loop, self._started_in)


class _Call(Generic[T]):
    """Work for the loop's thread; it may be abandoned before it begins.

    Not a future of `concurrent.futures`: an interrupt within its methods could leave its lock held, and the
    loop's thread would wait for that lock.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._over = threading.Lock()
        self._over.acquire()  # until the work is over

    def begin(self) -> None:
        """Begin the work. Called on the loop's thread."""
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._ended)

    def result(self) -> T:
        """Wait for the work's end; returns its value, or raises its exception."""
        # If a signal arrives just before Python waits for a lock, it is handled only after that wait.
        seconds = INTERRUPT_SECONDS if threading.current_thread() is threading.main_thread() else -1
        while not self._over.acquire(timeout=seconds):
            pass
        assert self._task is not None
        try:
            return self._task.result()
        except asyncio.CancelledError:
            raise CancelledError("this client was closed") from None

    def abandon(self) -> None:
        """Cancel the work unless it is done. Called on the loop's thread."""
        if self._task is None:
            self._work.close()
        else:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would report it if nobody waits
        self._over.release()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, cancel its remaining tasks, and close it."""

    async def cancel_all() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await loop.shutdown_asyncgens()

    try:
        loop.run_forever()
        loop.run_until_complete(cancel_all())
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, started_in: int) -> None:
    """Ask the loop's thread to end, without waiting for it.

    The garbage collector may call this in any thread, even in an event loop's, which must not wait.
    """
    if os.getpid() == started_in:
        with contextlib.suppress(RuntimeError):  # already closed
            loop.call_soon_threadsafe(loop.stop)


class Facade(Generic[A]):
    """An object with blocking methods; `inner` is the asynchronous object behind it."""

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
    """A facade's method that waits for this one. `kind` makes a facade of the returned object."""

    @functools.wraps(method)
    def wait(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        found = self._thread.run(method(self._inner, *args, **kwargs))
        return found if kind is None else kind(self._thread, found)

    return wait


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Facade[A], P], Iterator[T]]:
    """A facade's method that iterates over the items of this one."""

    @functools.wraps(method)
    def iterate(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._inner, *args, **kwargs)

        async def step() -> Any:
            return await anext(items, _END)

        async def close_items() -> None:
            await items.aclose()

        try:
            while (item := self._thread.run(step())) is not _END:
                yield item
        finally:
            if not self._thread.closed:
                self._thread.run(close_items())

    return iterate
