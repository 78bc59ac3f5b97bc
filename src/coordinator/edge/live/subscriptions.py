"""The subscriptions of one live connection, and its next messages; for WebSocket and server-sent events.

One task at a time uses them. They have no buffer: events wait in the reader (bounded) or in the log, and text
in the hub. So a connection that does not read costs no further memory, and goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

from coordinator.application.live.events import EVERYTHING, EventReader, Live, Topic
from coordinator.application.live.progress_stream import ProgressStream
from coordinator.application.ports import Recorded
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobAttemptEnded, ends_job, is_job_event
from coordinator.domain.messages import READS_ALL, Principal
from coordinator.edge.http.reads.reading import may_read
from coordinator.edge.live.messages import JobRefused, LiveMessage, Subscribed, of_event, of_progress

MAX_JOBS: Final = 1000
"""Jobs that one connection may follow by their ids; for more it can follow "all"."""


class Subscriptions:
    """One connection's subscriptions. `woken` is set whenever `news` may have something."""

    def __init__(
        self,
        live: Live,
        principal: Principal,
        reader: EventReader,
        stream: ProgressStream,
        woken: asyncio.Event,
    ) -> None:
        self.woken = woken
        self._live = live
        self._principal = principal
        self._reader = reader
        self._stream = stream
        self._all = False
        self._jobs: set[UUID] = set()

    @property
    def position(self) -> int:
        """All events up to this position were sent."""
        return self._reader.position if self._reader.behind else self._live.events.position

    @property
    def catching_up(self) -> bool:
        """Whether past events are still being sent."""
        return self._reader.behind

    async def follow_all(self, after: int | None, *, progress: bool = True) -> None:
        """Follow all jobs that the principal may read. Raises Refusal, LogError."""
        if self._all or self._jobs:
            raise Refusal(
                Code.INVALID_PAYLOAD, "jobs: this connection has subscriptions; end them, or open another"
            )
        if after is not None:
            await check_position(self._live, after)
        everyones = self._principal.role in READS_ALL
        topic: Topic = EVERYTHING if everyones else ("client", self._principal.name)
        self._reader.follow(topic, after)
        self._all = True
        if progress:
            await self._stream.follow(None if everyones else self._principal.name)

    async def follow_jobs(
        self, job_ids: Sequence[UUID], after: int = 0, *, progress: bool = True
    ) -> AsyncGenerator[LiveMessage]:
        """Follow these jobs: their events after position `after`, and then a `Subscribed`.

        Raises Refusal, LogError.
        """
        wanted = [job_id for job_id in dict.fromkeys(job_ids) if job_id not in self._jobs]
        if self._all:
            raise Refusal(Code.INVALID_PAYLOAD, 'jobs: this connection follows "all" already')
        if len(self._jobs) + len(wanted) > MAX_JOBS:
            raise Refusal(Code.TOO_LARGE, f'jobs: {MAX_JOBS} to a connection; follow "all" instead')
        await check_position(self._live, after)
        # 1. The jobs' events so far, of jobs that the principal may read.
        until = self._live.events.position
        histories = await self._live.events.histories(wanted) if wanted else {}
        own = {job_id: history for job_id, history in histories.items() if self._may_read(history)}
        # 2. The reader brings all events after `until`.
        for job_id in own:
            self._reader.follow(job_id, max(until, after))
            self._jobs.add(job_id)
        past = sorted(r for history in own.values() for r in history if after < r.position <= until)
        for recorded in past:
            message = of_event(recorded)
            if message is not None:
                yield message
        refused = tuple(
            JobRefused(job_id=job_id, code=Code.JOB_NOT_FOUND) for job_id in wanted if job_id not in own
        )
        followed = tuple(job_id for job_id in dict.fromkeys(job_ids) if job_id in self._jobs)
        yield Subscribed(jobs=followed, refused=refused or None, position=max(until, after))
        # 3. Text, so far and from now on; final jobs have none any more.
        if progress:
            running = [job_id for job_id, history in own.items() if not ends_job(history[-1].event)]
            await asyncio.gather(*(self._stream.add(job_id) for job_id in running))

    async def leave_jobs(self, job_ids: Sequence[UUID]) -> None:
        """No longer follow these jobs."""
        for job_id in job_ids:
            self._jobs.discard(job_id)
            self._reader.leave(job_id)
            await self._stream.remove(job_id)

    async def leave_all(self) -> None:
        """No longer follow any job."""
        self._all = False
        self._jobs.clear()
        self._reader.close()
        await self._stream.close()

    async def news(self) -> list[LiveMessage]:
        """The messages to send now; may be empty. Raises LogError."""
        messages: list[LiveMessage] = []
        for recorded in await self._reader.take():
            event = recorded.event
            if not is_job_event(event) or not (self._all or event.job_id in self._jobs):
                continue
            if ends_job(event) or isinstance(event, JobAttemptEnded):
                # The last text comes before the end.
                item = self._stream.take_of(event.job_id, event.attempt)
                messages += of_progress(item) if item is not None else ()
            message = of_event(recorded)
            if message is not None:
                messages.append(message)
        if not self._reader.behind:
            for item in self._stream.take():
                messages += of_progress(item)
        return messages

    def _may_read(self, history: Sequence[Recorded]) -> bool:
        first = history[0].event
        return is_job_event(first) and may_read(self._principal, first.client)


async def check_position(live: Live, position: int) -> None:
    """Raises Refusal for a position beyond the head of the log; LogError."""
    if not await live.events.exists(position):
        raise Refusal(Code.INVALID_PAYLOAD, "from: beyond the head of the log; send a position of a message")


@asynccontextmanager
async def watching(live: Live, principal: Principal) -> AsyncIterator[Subscriptions]:
    """The subscriptions of a connection that follows nothing yet."""
    woken = asyncio.Event()
    reader = live.events.reader(woken.set)
    try:
        async with live.progress.watch(on_news=woken.set) as stream:
            yield Subscriptions(live, principal, reader, stream, woken)
    finally:
        reader.close()
