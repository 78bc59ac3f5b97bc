"""One reader of running jobs' progress, at its own pace.

The hub only tells it which jobs have news. The reader fetches the news itself, from its place in each job's
text, when it is ready. So a slow reader delays no one, and a late one begins with the text so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol
from uuid import UUID

from coordinator.application.live.progress import Progress, ReaderPlace

Topic = tuple[str | None, UUID | None]
"""(client, job); None for any."""


class ProgressSource(Protocol):
    """The hub, as a stream uses it."""

    async def attach(self, stream: ProgressStream, topic: Topic) -> None:
        """Send the progress of this topic to a stream."""

    async def detach(self, stream: ProgressStream, topic: Topic) -> None:
        """Stop sending the progress of this topic to a stream."""

    def attempt_of(self, job_id: UUID) -> int | None:
        """The attempt whose progress is known."""

    def after(self, job_id: UUID, place: ReaderPlace) -> tuple[Progress | None, ReaderPlace | None]:
        """The news for a reader at `place`, and its new place; (None, None) for an unknown job."""


class ProgressStream:
    """One reader. Iterate over it, or call `take` after each call of `on_news`."""

    def __init__(self, hub: ProgressSource, on_news: Callable[[], None]) -> None:
        self._hub = hub
        self._on_news = on_news
        self._news: dict[UUID, None] = {}
        self._places: dict[UUID, ReaderPlace] = {}
        self._woken: asyncio.Event | None = None
        """Created by iteration only; a thousand idle readers need none."""
        self.topics: set[Topic] = set()

    async def add(self, job_id: UUID) -> None:
        """Also watch this job. Its text so far comes first; waits for that up to half a second."""
        await self._hub.attach(self, (None, job_id))

    async def follow(self, client: str | None) -> None:
        """Watch all jobs of this client, or all jobs (None)."""
        await self._hub.attach(self, (client, None))

    async def close(self) -> None:
        """Stop watching all jobs. May be called twice."""
        for topic in list(self.topics):
            await self._hub.detach(self, topic)
        self._news.clear()
        self._places.clear()

    async def remove(self, job_id: UUID) -> None:
        """Stop watching this job."""
        self._news.pop(job_id, None)
        await self._hub.detach(self, (None, job_id))

    def take(self) -> list[Progress]:
        """All news, one item per job, in the order of the jobs' first news."""
        jobs, self._news = self._news, {}
        return [item for job_id in jobs if (item := self._read(job_id)) is not None]

    def take_of(self, job_id: UUID, attempt: int | None = None) -> Progress | None:
        """The news of one job; only those of `attempt`, if given."""
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
        """For the hub: the job has news."""
        self._news[job_id] = None
        if self._woken is not None:
            self._woken.set()
        self._on_news()

    def forget(self, job_id: UUID) -> None:
        """For the hub: the job has no more news."""
        self._news.pop(job_id, None)
        self._places.pop(job_id, None)

    def _read(self, job_id: UUID) -> Progress | None:
        item, place = self._hub.after(job_id, self._places.get(job_id, ReaderPlace()))
        if place is not None:
            self._places[job_id] = place
        return item
