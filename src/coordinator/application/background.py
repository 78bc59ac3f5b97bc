"""One life cycle for all long-running parts, and a place for tasks that nobody awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import structlog

log = structlog.get_logger("background")


class Component(Protocol):
    """A long-running part. Both may be called twice; `stop` also without a start, or after a failed start."""

    async def start(self) -> None:
        """Returns once the component works."""

    async def stop(self) -> None:
        """Returns once no part of the component runs any more."""


class LifeCycle:
    """A list of components that start in order and stop in reverse; a component itself."""

    def __init__(self, components: Sequence[Component]) -> None:
        self._components = components
        self._started: AsyncExitStack | None = None

    @property
    def running(self) -> bool:
        """Whether all of them have started."""
        return self._started is not None

    async def start(self) -> None:
        """Start all of them. If one fails, stop it and the ones before it, and raise its error."""
        if self._started is not None:
            return
        async with AsyncExitStack() as stack:
            for component in self._components:
                stack.push_async_callback(component.stop)
                await component.start()
            self._started = stack.pop_all()

    async def stop(self) -> None:
        """Stop all of them, even if one fails to stop; then raise its error."""
        if self._started is not None:
            stack, self._started = self._started, None
            await stack.aclose()


class BackgroundTask:
    """One task that runs until `stop`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this, unless it runs already. Its error, if it ends by one, is logged."""
        if not self.running:
            self._task = asyncio.create_task(run(), name=self._name)
            self._task.add_done_callback(_log_error)

    async def stop(self) -> None:
        """Cancel the task, and wait for its end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Turns:
    """Tells a long loop when other tasks should get their turn: `if turns.over(): await asyncio.sleep(0)`."""

    def __init__(self, seconds: float = 0.005) -> None:
        self._seconds = seconds
        self._begun = time.perf_counter()

    def over(self) -> bool:
        """Whether the turn is over; the next one begins then."""
        now = time.perf_counter()
        if now - self._begun < self._seconds:
            return False
        self._begun = now
        return True


class Background:
    """Short tasks that nobody awaits: kept until they end, with their errors logged."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancel all tasks, and wait for their ends."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def join(self) -> None:
        """Wait until no task is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        _log_error(task)


def _log_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a background task failed", task=task.get_name(), exc_info=error)
