"""Open pages of one kind and audience share one computation: a change is computed once, and sent to all.

Computations of all open pages run one at a time, and rest after each: whatever the number of pages, they take
a bounded share of one processor, and each page at most two updates a second.
"""

from __future__ import annotations

import asyncio
import re
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.live.events import Live, Topic

PERIOD_SECONDS: Final = 0.5
"""The least time between two updates of one page."""
REST: Final = 4.0
"""The rest after a computation, in times of its length: together they take a fifth of a processor."""
TICK_SECONDS: Final = 5.0
"""Between computations while the log does not move: heartbeats and ages are not in it."""
COMPUTE_SECONDS: Final = 10.0
"""The longest computation: the others wait for it."""
KEEP_SECONDS: Final = 10.0
"""How long a computation without readers is remembered."""
MAX_KEPT: Final = 500
_TIME: Final = re.compile(r"(<time [^>]*>)[^<]*")

log = structlog.get_logger("dashboard")


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """The changing parts of a page, by the ids of their elements."""

    position: int
    """As fresh as this position of the log."""
    html: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PageSource:
    """Where a page's parts come from."""

    key: tuple[str, ...]
    """Equal for pages that show the same to the same audience."""
    compute: Callable[[], Awaitable[Parts]]
    topics: tuple[Topic, ...]
    """The events after which it is computed again."""
    progress_of: UUID | None = None
    """A job whose progress counts as a change, too."""


@dataclass(eq=False, slots=True)
class Reader:
    """One open page."""

    since: int
    """It has the parts as of this position."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    revision: int = -1
    """The revision that it has got; -1 for none."""


class _Broadcast:
    """One source, its newest parts, and their readers."""

    def __init__(self, source: PageSource, live: Live, lane: asyncio.Lock) -> None:
        self._source = source
        self._live = live
        self._lane = lane
        self._once = asyncio.Lock()
        self._changed: dict[str, tuple[int, int]] = {}
        """By part: the revision and the position at which it changed last."""
        self._cuts: dict[tuple[str, ...], Parts] = {}
        """Of this revision: what readers lack; those who lack the same share one message."""
        self._task = BackgroundTask("dashboard-broadcast")
        self.readers: set[Reader] = set()
        self.parts: Parts | None = None
        self.computed_at = float("-inf")
        self.revision = 0
        self.failure: Exception | None = None

    async def newest(self) -> Parts:
        """The parts, at most half a second old. Raises what the source raises."""
        async with self._once:
            if self.parts is None or time.monotonic() - self.computed_at >= PERIOD_SECONDS:
                self._take(await self._source.compute())
            assert self.parts is not None
            return self.parts

    def add(self, reader: Reader) -> None:
        self.readers.add(reader)
        if not self._task.running:
            self._task.start(self._run)

    async def remove(self, reader: Reader) -> None:
        self.readers.discard(reader)
        if not self.readers:
            await self._task.stop()

    def news_for(self, reader: Reader) -> Parts | None:
        """The parts that this reader has not got; None if it has all."""
        if self.parts is None or reader.revision == self.revision:
            return None
        wanted = tuple(
            name
            for name in self.parts.html
            if (
                self._changed[name][0] > reader.revision
                if reader.revision >= 0
                # Its page, or its last connection, showed this position; parts may also change within one.
                else self._changed[name][1] >= reader.since
            )
        )
        first, reader.revision = reader.revision < 0, self.revision
        if not wanted and not first:
            return None
        if wanted not in self._cuts:
            html = self.parts.html
            self._cuts[wanted] = Parts(self.parts.position, {name: html[name] for name in wanted})
        return self._cuts[wanted]

    def _take(self, parts: Parts) -> None:
        known = {} if self.parts is None else self.parts.html
        changed = [n for n, html in parts.html.items() if _lasting(known.get(n, "")) != _lasting(html)]
        self.revision += 1 if changed or self.parts is None else 0
        self._changed |= dict.fromkeys(changed, (self.revision, parts.position))
        for name in parts.html:
            self._changed.setdefault(name, (self.revision, parts.position))
        self._cuts.clear()
        self.parts, self.computed_at = parts, time.monotonic()
        for reader in self.readers:
            reader.woken.set()

    async def _run(self) -> None:
        news = asyncio.Event()
        reader = self._live.events.reader(news.set)
        async with AsyncExitStack() as stack:
            stack.callback(reader.close)
            jobs = () if self._source.progress_of is None else (self._source.progress_of,)
            progress = await stack.enter_async_context(self._live.progress.watch(*jobs, on_news=news.set))
            while True:
                # Events only wake us; what they say is in the tables and the log. So none is kept.
                news.clear()
                progress.take()
                reader.close()
                for topic in self._source.topics:
                    reader.follow(topic)
                async with self._lane:
                    cost = await self._refresh()
                await asyncio.sleep(max(PERIOD_SECONDS, REST * cost))
                try:
                    async with asyncio.timeout(TICK_SECONDS):
                        await news.wait()
                except TimeoutError:
                    pass

    async def _refresh(self) -> float:
        """Compute the parts; the seconds that it took."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(COMPUTE_SECONDS):
                await self.newest()
            self.failure = None
        except Exception as error:
            # The pages keep what they show, and their ages go on; the next turn tries again.
            if self.failure is None:
                # As text: renderers that walk through local variables would show keys and payloads.
                told = "".join(traceback.format_exception(error))
                log.warning("a page can't be brought up to date", page=self._source.key[0], exception=told)
            self.failure = error
        return time.monotonic() - began


class Broadcasts:
    """The broadcasts of one process. Used on the event loop only."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._lane = asyncio.Lock()
        self._known: dict[tuple[str, ...], _Broadcast] = {}

    @property
    def readers(self) -> int:
        """The open pages."""
        return sum(len(broadcast.readers) for broadcast in self._known.values())

    async def newest(self, source: PageSource) -> Parts:
        """The parts of a page that is being loaded. Raises what the source raises."""
        return await self._of(source).newest()

    def spoil(self) -> None:
        """Somebody has changed something: the next page that is loaded is computed anew."""
        for broadcast in self._known.values():
            broadcast.computed_at = float("-inf")

    @asynccontextmanager
    async def reading(
        self, source: PageSource, since: int
    ) -> AsyncIterator[tuple[Reader, Callable[[], Parts | None]]]:
        """A reader that has the parts as of `since`, and its next news. They end with the block."""
        broadcast, reader = self._of(source), Reader(since)
        broadcast.add(reader)
        try:
            yield reader, lambda: broadcast.news_for(reader)
        finally:
            await broadcast.remove(reader)
            self._forget_idle()

    def _of(self, source: PageSource) -> _Broadcast:
        known = self._known.get(source.key)
        if known is None:
            self._forget_idle()
            known = self._known[source.key] = _Broadcast(source, self._live, self._lane)
        return known

    def _forget_idle(self) -> None:
        limit = time.monotonic() - (KEEP_SECONDS if len(self._known) < MAX_KEPT else 0)
        for key, broadcast in list(self._known.items()):
            if not broadcast.readers and broadcast.computed_at < limit:
                del self._known[key]


def _lasting(html: str) -> str:
    """The text without what only the time has changed: the page's script keeps ages current."""
    return _TIME.sub(r"\1", html)
