"""Progress and text of running jobs, from their miners to whoever watches.

The hub keeps the end of each running job's text once, and each reader (`progress_stream`) has a place in it.
What other processes hear and have comes over a `ProgressWire`.
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
"""Characters kept of all jobs' texts; the job that said nothing for longest goes first."""
MAX_JOBS = 20_000
AFTERLIFE_SECONDS = 30.0
"""How long an ended job's text is kept for those who have not fetched it yet."""
ANSWER_SECONDS = 0.5
"""How long a late reader waits for the text so far, where another process or the miner has it."""


class ProgressWire(Protocol):
    """How progress gets from one process to another."""

    async def bind(self, topic: Topic) -> None:
        """From now on, progress of these jobs comes here. Returns soon, whatever the broker does."""

    async def unbind(self, topic: Topic) -> None: ...

    async def ask(self, job_id: UUID) -> bool:
        """Ask whoever has this job's text so far to send it; False where there is nobody to be asked."""

    def relay(self, client: str, items: Sequence[Progress]) -> None:
        """Pass on to other processes what a miner said to this one. Never blocks; may be lost."""

    async def start(self, hub: ProgressHub) -> None:
        """Begin to bring progress to this hub. A second start does nothing."""

    async def stop(self) -> None:
        """May be called twice, or without a start."""


class NoWire:
    """A `ProgressWire` for a process that is alone: all miners speak to it."""

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
    """What this process knows of running jobs, and who watches it. Used on the event loop only."""

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
        """Hear other processes, too."""
        await self._wire.start(self)

    async def stop(self) -> None:
        tasks = list(self._held.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._wire.stop()

    @property
    def readers(self) -> int:
        """How many topics are watched, each once a reader."""
        return sum(map(len, self._readers.values()))

    # --- publishing ----------------------------------------------------------------------------------------
    def publish(self, client: str, *items: Progress, relay: bool = False, whole: bool = False) -> None:
        """Tell whoever watches. The caller has made sure that the sender holds the attempt.

        `relay`: it was said to this process alone, so tell the others, too. `whole`: the text so far, as it
        was asked for.
        """
        if relay:
            self._wire.relay(client, items)
        for item in items:
            self._publish(client, item)
            asked = self._asked.get(item.job_id)
            if asked is not None and (whole or (isinstance(item, ProgressReport) and item.whole)):
                asked.set()

    def whole(self, job_id: UUID) -> tuple[str, Progress] | None:
        """The client, and the present progress with the text so far, for another process that asks."""
        tail = self._tails.get(job_id)
        item = None if tail is None else tail.after(job_id, ReaderPlace())[0]
        return None if tail is None or item is None else (tail.client, item)

    def lacks_beginning(self, job_id: UUID) -> bool:
        """Whether the text that is known begins in the middle, and not because the rest was too long ago."""
        tail = self._tails.get(job_id)
        return tail is not None and tail.offset > 0 and len(tail.text) < MAX_PROGRESS_TEXT

    def end(self, job_id: UUID) -> None:
        """The job is final: what is known of it goes once its readers had time to fetch it."""
        if job_id in self._tails:
            self._ended.append((self._monotonic() + AFTERLIFE_SECONDS, job_id))
        self._bury()

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
        self._bury()

    def _complete(self, job_id: UUID) -> None:
        """A job is heard of in the middle of its text, by those who watch: ask for the beginning first."""

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

    def _bury(self) -> None:
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
        """Watch these jobs, all of a client's, or everybody's. Whoever may see them is the caller's matter.

        On leaving the block the stream ends. `on_news` is called on the event loop; it must return at once.
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
        """Let a stream have what comes under this topic."""
        if topic in stream.topics:
            return
        stream.topics.add(topic)
        self._bound[topic] = self._bound.get(topic, 0) + 1
        client, job_id = topic
        await self._wire.bind(topic)
        if job_id is not None:
            await self._fetch(job_id)
        if topic not in stream.topics:
            return  # it was detached meanwhile
        self._readers.setdefault(topic, set()).add(stream)
        if job_id is None:
            for known, tail in self._tails.items():
                if client in (None, tail.client):
                    stream.tell(known)
        elif job_id in self._tails:
            stream.tell(job_id)

    async def detach(self, stream: ProgressStream, topic: Topic) -> None:
        """Let a stream have nothing more of this topic."""
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
        """The attempt that is heard of."""
        tail = self._tails.get(job_id)
        return None if tail is None else tail.attempt

    def after(self, job_id: UUID, place: ReaderPlace) -> tuple[Progress | None, ReaderPlace | None]:
        """What a reader at `place` has not had, and its place then; nothing of a job that is not known."""
        tail = self._tails.get(job_id)
        return (None, None) if tail is None else tail.after(job_id, place)

    async def _fetch(self, job_id: UUID) -> None:
        """Have the text so far sent here, unless it is here."""
        tail = self._tails.get(job_id)
        if tail is not None and tail.text and (tail.offset == 0 or len(tail.text) >= MAX_PROGRESS_TEXT):
            return
        await self._ask(job_id, anyway=self.lacks_beginning(job_id))

    async def _ask(self, job_id: UUID, *, anyway: bool) -> None:
        """Ask for the text so far, and wait for it. `anyway`: a miner that speaks to this process is asked in
        the answer to its next report, where nobody else can be.
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
