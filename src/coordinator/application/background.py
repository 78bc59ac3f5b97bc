"""One life cycle for everything that runs on, and one place for tasks that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol, runtime_checkable

import structlog

log = structlog.get_logger("background")


class Service(Protocol):
    """A part that runs on. Both may be called twice; `stop` also without a start, or after half of one."""

    async def start(self) -> None:
        """Returns once it does its work."""

    async def stop(self) -> None:
        """Returns once nothing of it runs any more."""


@runtime_checkable
class Fallible(Protocol):
    """A service that can say what keeps it from its work."""

    def problems(self) -> Sequence[str]:
        """A sentence for each problem, without secrets; at once, without I/O."""


class Services:
    """A list of services that start in order and stop in reverse. It is a service itself."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services
        self._started: AsyncExitStack | None = None

    @property
    def running(self) -> bool:
        """Whether all of them have started."""
        return self._started is not None

    async def start(self) -> None:
        """Start all of them. If one fails, it and those before it are stopped again; its error is raised."""
        if self._started is not None:
            return
        async with AsyncExitStack() as stack:
            for service in self._services:
                stack.push_async_callback(service.stop)
                await service.start()
            self._started = stack.pop_all()

    def problems(self) -> list[str]:
        """What keeps the parts from their work, in order; at once, without I/O."""
        return [
            text for service in self._services if isinstance(service, Fallible) for text in service.problems()
        ]

    async def stop(self) -> None:
        """Stop all of them, also where one fails at it; then its error is raised."""
        if self._started is not None:
            stack, self._started = self._started, None
            await stack.aclose()


class BackgroundTask:
    """One task that runs until it is stopped."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this, unless it runs already."""
        if not self.running:
            self._task = asyncio.create_task(run(), name=self._name)

    async def stop(self) -> None:
        """Cancel it, and wait for its end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Background:
    """Short tasks that nobody waits for: held until they end, and their errors are logged."""

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
        """Cancel all of them, and wait for their ends."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def join(self) -> None:
        """Wait until there are none."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", task=self._name, exc_info=error)
