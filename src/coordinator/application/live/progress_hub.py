"""Progress and text of running jobs, from their miners to all readers.

The hub keeps the tail of each running job's text once, and each reader (`progress_stream`) has a place in it.
Progress from other processes comes over a `ProgressWire`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

from coordinator.application.live.progress import Progress, ProgressReport, ReaderPlace, Tail
from coordinator.application.live.progress_stream import ProgressStream, Topic
from coordinator.wire.limits import MAX_PROGRESS_TEXT

MAX_ALL_TEXT = 32 * 2**20
"""Characters kept of all texts; the job without news for longest is dropped first."""
MAX_JOBS = 20_000
KEEP_FINAL_SECONDS = 30.0
"""How long a final job's text is kept for readers that have not fetched it yet."""
ANSWER_SECONDS = 0.5
"""How long a late reader waits for the text so far, from another process or the miner."""


class ProgressWire(Protocol):
    """The exchange of progress between processes."""

    async def bind(self, topic: Topic) -> None:
        """Receive progress of these jobs from now on. Returns soon, whatever the broker does."""

    async def unbind(self, topic: Topic) -> None: ...

    async def ask(self, job_id: UUID) -> bool:
        """Ask the holder of this job's text so far to send it; False if there is no one to ask."""

    def relay(self, client: str, items: Sequence[Progress]) -> None:
        """Pass a miner's reports on to other processes. Never blocks; may lose them."""

    async def start(self, hub: ProgressHub) -> None:
        """Begin to deliver progress to this hub. A second start does nothing."""

    async def stop(self) -> None:
        """May be called twice, or without a start."""


class NoWire:
    """A `ProgressWire` for a single process, which all miners report to."""

    async def start(self, hub: ProgressHub) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def bind(self, topic: Topic) -> None:
        return None

    async def unbind(self, topic: Topic) -> None:
        return None

    async def ask(self, job_id: UUID) -> bool:
        return False

    def relay(self, client: str, items: Sequence[Progress]) -> None:
        return None


class ProgressHub:
    """The progress that this process knows, and its readers. Used on the event loop only."""

    def __init__(
        self, wire: ProgressWire | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wire: ProgressWire = wire or NoWire()
        self._monotonic = monotonic
        self._tails: OrderedDict[UUID, Tail] = OrderedDict()
        self._characters = 0
        self._ended: deque[tuple[float, UUID]] = deque()
        self._readers: dict[Topic, set[ProgressStream]] = {}
        self._bound: dict[Topic, int] = {}
        self._asked: dict[UUID, asyncio.Event] = {}
        self._held: dict[UUID, asyncio.Task[None]] = {}
        """Jobs whose readers wait for the beginning of the text."""

    async def start(self) -> None:
        """Begin to receive progress from other processes."""
        await self._wire.start(self)

    async def stop(self) -> None:
        tasks = list(self._held.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._wire.stop()

    @property
    def readers(self) -> int:
        """The number of pairs of a reader and a topic."""
        return sum(map(len, self._readers.values()))

    # --- publishing ----------------------------------------------------------------------------------------
    def publish(self, client: str, *items: Progress, relay: bool = False, whole: bool = False) -> None:
        """Pass progress to all readers. The caller has checked that the sender holds the attempt.

        `relay`: pass it on to other processes, because only this one got it. `whole`: it is the text so far,
        as asked for.
        """
        if relay:
            self._wire.relay(client, items)
        for item in items:
            self._publish(client, item)
            asked = self._asked.get(item.job_id)
            if asked is not None and (whole or (isinstance(item, ProgressReport) and item.whole)):
                asked.set()

    def whole(self, job_id: UUID) -> tuple[str, Progress] | None:
        """The client, and the current progress with the text so far, for another process that asks."""
        tail = self._tails.get(job_id)
        item = None if tail is None else tail.after(job_id, ReaderPlace())[0]
        return None if tail is None or item is None else (tail.client, item)

    def lacks_beginning(self, job_id: UUID) -> bool:
        """Whether the beginning of the text was never received (as opposed to dropped for its length)."""
        tail = self._tails.get(job_id)
        return tail is not None and tail.offset > 0 and len(tail.text) < MAX_PROGRESS_TEXT

    def end(self, job_id: UUID) -> None:
        """The job is final: drop its progress once its readers have had time to fetch it."""
        if job_id in self._tails:
            self._ended.append((self._monotonic() + KEEP_FINAL_SECONDS, job_id))
        self._drop_final()

    def _publish(self, client: str, item: Progress) -> None:
        job_id = item.job_id
        tail = self._tails.get(job_id)
        if tail is None or tail.attempt < item.attempt:
            if tail is not None:
                self._characters -= len(tail.text)
            tail = self._tails[job_id] = Tail(client, item.attempt)
        elif tail.attempt > item.attempt:
            return
        first, before = tail.seq < 0, len(tail.text)
        news = tail.take_in(item)
        self._characters += len(tail.text) - before
        self._tails.move_to_end(job_id)
        if news:
            readers = self._readers_of(job_id, tail.client)
            if first and readers and tail.offset > 0:
                self._complete(job_id)
            if job_id not in self._held:
                for reader in readers:
                    reader.tell(job_id)
        while len(self._tails) > MAX_JOBS or self._characters > MAX_ALL_TEXT:
            self._drop(next(iter(self._tails)))
        self._drop_final()

    def _complete(self, job_id: UUID) -> None:
        """Ask for the beginning of a text before its readers get the rest."""

        async def ask() -> None:
            try:
                await self._ask(job_id, anyway=True)
            finally:
                self._held.pop(job_id, None)
                tail = self._tails.get(job_id)
                if tail is not None:
                    for reader in self._readers_of(job_id, tail.client):
                        reader.tell(job_id)

        self._held[job_id] = asyncio.create_task(ask())

    def _drop_final(self) -> None:
        now = self._monotonic()
        while self._ended and self._ended[0][0] <= now:
            self._drop(self._ended.popleft()[1])

    def _drop(self, job_id: UUID) -> None:
        tail = self._tails.pop(job_id, None)
        if tail is not None:
            self._characters -= len(tail.text)
            for reader in self._readers_of(job_id, tail.client):
                reader.forget(job_id)

    def _readers_of(self, job_id: UUID, client: str) -> set[ProgressStream]:
        readers = self._readers
        if not readers:
            return set()
        topics: tuple[Topic, ...] = ((None, job_id), (client, None), (None, None))
        return set().union(*(readers.get(topic, ()) for topic in topics))

    # --- watching ------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def watch(
        self,
        *job_ids: UUID,
        client: str | None = None,
        everybody: bool = False,
        on_news: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[ProgressStream]:
        """Watch these jobs, all jobs of a client, or all jobs. The caller must check the right to see them.

        The stream ends with the block. `on_news` is called on the event loop and must not block.
        """
        stream = ProgressStream(self, on_news)
        try:
            if everybody or client is not None:
                await stream.follow(None if everybody else client)
            await asyncio.gather(*(stream.add(job_id) for job_id in job_ids))
            yield stream
        finally:
            await stream.close()

    async def attach(self, stream: ProgressStream, topic: Topic) -> None:
        """Send the progress of this topic to a stream."""
        if topic in stream.topics:
            return
        stream.topics.add(topic)
        self._bound[topic] = self._bound.get(topic, 0) + 1
        client, job_id = topic
        await self._wire.bind(topic)
        if job_id is not None:
            await self._fetch(job_id)
        if topic not in stream.topics:
            return  # it was detached in the meantime
        self._readers.setdefault(topic, set()).add(stream)
        if job_id is None:
            for known, tail in self._tails.items():
                if client in (None, tail.client):
                    stream.tell(known)
        elif job_id in self._tails:
            stream.tell(job_id)

    async def detach(self, stream: ProgressStream, topic: Topic) -> None:
        """Stop sending the progress of this topic to a stream."""
        if topic not in stream.topics:
            return
        stream.topics.discard(topic)
        readers = self._readers.get(topic, set())
        readers.discard(stream)
        if not readers:
            self._readers.pop(topic, None)
        self._bound[topic] -= 1
        if not self._bound[topic]:
            del self._bound[topic]
            await self._wire.unbind(topic)

    def attempt_of(self, job_id: UUID) -> int | None:
        """The attempt whose progress is known."""
        tail = self._tails.get(job_id)
        return None if tail is None else tail.attempt

    def after(self, job_id: UUID, place: ReaderPlace) -> tuple[Progress | None, ReaderPlace | None]:
        """The news for a reader at `place`, and its new place; (None, None) for an unknown job."""
        tail = self._tails.get(job_id)
        return (None, None) if tail is None else tail.after(job_id, place)

    async def _fetch(self, job_id: UUID) -> None:
        """Get the text so far, unless it is here."""
        tail = self._tails.get(job_id)
        if tail is not None and tail.text and (tail.offset == 0 or len(tail.text) >= MAX_PROGRESS_TEXT):
            return
        await self._ask(job_id, anyway=self.lacks_beginning(job_id))

    async def _ask(self, job_id: UUID, *, anyway: bool) -> None:
        """Ask for the text so far, and wait for it. `anyway`: wait even if the wire finds no one to ask,
        because a miner of this process is asked in the answer to its next report.
        """
        asked = self._asked.get(job_id)
        if asked is not None:
            await asked.wait()
            return
        asked = self._asked[job_id] = asyncio.Event()
        try:
            if await self._wire.ask(job_id) or anyway:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await asked.wait()
        finally:
            del self._asked[job_id]
            asked.set()
