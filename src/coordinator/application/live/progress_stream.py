"""One reader of running jobs' progress, at its own pace.

The hub tells it which jobs have news, and no more: what is new it fetches itself, from its place in each
job's text, when it gets to it. So a slow reader delays nobody, and a late one begins with the text so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol
from uuid import UUID

from coordinator.application.live.progress import Progress, ReaderPlace

Topic = tuple[str | None, UUID | None]
"""Whose jobs, and which job; None for any."""


class ProgressSource(Protocol):
    """The calls of a stream to its hub."""

    async def attach(self, stream: ProgressStream, topic: Topic) -> None:
        """Let a stream have the progress under this topic."""

    async def detach(self, stream: ProgressStream, topic: Topic) -> None:
        """Let a stream have nothing more of this topic."""

    def attempt_of(self, job_id: UUID) -> int | None:
        """The attempt whose progress is known."""

    def after(self, job_id: UUID, place: ReaderPlace) -> tuple[Progress | None, ReaderPlace | None]:
        """What a reader at `place` has not had, and its place then; (None, None) for an unknown job."""


class ProgressStream:
    """One reader. Iterate over it, or `take` what is new whenever `on_news` was called."""

    def __init__(self, hub: ProgressSource, on_news: Callable[[], None]) -> None:
        self._hub = hub
        self._on_news = on_news
        self._news: dict[UUID, None] = {}
        self._places: dict[UUID, ReaderPlace] = {}
        self._woken: asyncio.Event | None = None
        """Made by who iterates; a thousand idle readers need none."""
        self.topics: set[Topic] = set()

    async def add(self, job_id: UUID) -> None:
        """Watch this job, too; its text so far comes first. Waits for that, up to half a second."""
        await self._hub.attach(self, (None, job_id))

    async def follow(self, client: str | None) -> None:
        """Watch all jobs of this client, or everybody's."""
        await self._hub.attach(self, (client, None))

    async def close(self) -> None:
        """Watch nothing. May be called twice."""
        for topic in list(self.topics):
            await self._hub.detach(self, topic)
        self._news.clear()
        self._places.clear()

    async def remove(self, job_id: UUID) -> None:
        """No longer watch this job."""
        self._news.pop(job_id, None)
        await self._hub.detach(self, (None, job_id))

    def take(self) -> list[Progress]:
        """All that is new, one item a job, in the order in which the jobs first had news."""
        jobs, self._news = self._news, {}
        return [item for job_id in jobs if (item := self._read(job_id)) is not None]

    def take_of(self, job_id: UUID, attempt: int | None = None) -> Progress | None:
        """What is new of one job; of this attempt alone, if one is named."""
        if attempt is not None and self._hub.attempt_of(job_id) != attempt:
            return None
        self._news.pop(job_id, None)
        return self._read(job_id)

    def __aiter__(self) -> AsyncIterator[Progress]:
        return self

    async def __anext__(self) -> Progress:
        while True:
            while not self._news:
                self._woken = asyncio.Event()
                await self._woken.wait()
            item = self.take_of(next(iter(self._news)))
            if item is not None:
                return item

    def tell(self, job_id: UUID) -> None:
        """The hub: there is something new of this job."""
        self._news[job_id] = None
        if self._woken is not None:
            self._woken.set()
        self._on_news()

    def forget(self, job_id: UUID) -> None:
        """The hub: nothing more will come of this job."""
        self._news.pop(job_id, None)
        self._places.pop(job_id, None)

    def _read(self, job_id: UUID) -> Progress | None:
        item, place = self._hub.after(job_id, self._places.get(job_id, ReaderPlace()))
        if place is not None:
            self._places[job_id] = place
        return item
