"""Open pages share their computations: once per change and audience, whatever the number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from coordinator.application.ports import LogUnavailable
from coordinator.edge.dashboard import broadcasts
from coordinator.edge.dashboard.broadcasts import Broadcasts, PageSource, Parts, Reader
from tests.unit.edge_fakes import FakeGateway, FakeLog, a_live

News = Callable[[], Parts | None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasts, "PERIOD_SECONDS", 0.0)
    monkeypatch.setattr(broadcasts, "TICK_SECONDS", 0.001)


class Page:
    """A page whose parts the test sets; `computed` counts."""

    def __init__(self, name: str = "page") -> None:
        self.parts = {"one": "1", "two": "2"}
        self.position = 10
        self.computed = 0
        self.failure: Exception | None = None
        self.again = asyncio.Event()
        self.source = PageSource((name,), self._compute, ())

    async def _compute(self) -> Parts:
        self.computed += 1
        self.again.set()
        if self.failure is not None:
            raise self.failure
        return Parts(self.position, dict(self.parts))

    async def next(self) -> None:
        """Until it was computed once more, from its beginning."""
        for _ in range(2):
            self.again.clear()
            await self.again.wait()


def some_broadcasts() -> Broadcasts:
    log: Any = FakeLog()
    return Broadcasts(a_live(FakeGateway(), log))


def _computing() -> bool:
    return "dashboard-broadcast" in {task.get_name() for task in asyncio.all_tasks()}


async def _take(reader: Reader, news: News) -> Parts:
    while (parts := news()) is None:
        reader.woken.clear()
        await reader.woken.wait()
    return parts


@asynccontextmanager
async def _reading(shared: Broadcasts, page: Page, count: int) -> AsyncIterator[list[tuple[Reader, News]]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(shared.reading(page.source, 0)) for _ in range(count)]


async def test_a_change_is_computed_once_for_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred readers of one page cost what one costs; each gets what has changed, and nothing else."""
    monkeypatch.setattr(broadcasts, "PERIOD_SECONDS", 0.005)
    page, shared = Page(), some_broadcasts()
    async with asyncio.timeout(20), _reading(shared, page, 200) as readers:
        assert 200 == shared.readers
        firsts = await asyncio.gather(*(_take(*each) for each in readers))
        assert [{"one": "1", "two": "2"}] * 200 == [dict(parts.html) for parts in firsts]
        before = page.computed
        page.parts["two"], page.position = "3", 11
        changed = await asyncio.gather(*(_take(*each) for each in readers))
        assert [(11, {"two": "3"})] * 200 == [(parts.position, dict(parts.html)) for parts in changed]
        assert page.computed - before <= 3
        assert _computing()
    assert 0 == shared.readers
    assert not _computing()  # nobody looks


async def test_loading_shares_with_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that are loaded within half a second are one computation, until something was changed."""
    monkeypatch.setattr(broadcasts, "PERIOD_SECONDS", 60)
    page, shared = Page(), some_broadcasts()
    await asyncio.gather(*(shared.newest(page.source) for _ in range(50)))
    assert 1 == page.computed
    shared.spoil()
    await asyncio.gather(*(shared.newest(page.source) for _ in range(50)))
    assert 2 == page.computed
    other = Page("other")
    await shared.newest(other.source)
    assert (2, 1) == (page.computed, other.computed)


async def test_a_reader_goes_on_after_its_position() -> None:
    """With the position of its page it gets what changed since; what is of that position may come twice."""
    page, shared = Page(), some_broadcasts()
    async with asyncio.timeout(20), shared.reading(page.source, 0) as (reader, news):
        await _take(reader, news)
        page.parts["two"], page.position = "3", 20
        await _take(reader, news)
        for since, expected in (
            (0, {"one", "two"}),
            (10, {"one", "two"}),
            (11, {"two"}),
            (20, {"two"}),
            (21, set()),
        ):
            async with shared.reading(page.source, since) as (late, late_news):
                found = late_news()
                assert found is not None
                assert expected == set(found.html), since
                assert late_news() is None
                assert late.revision == reader.revision


async def test_time_alone_is_no_change() -> None:
    """An age that the page's script keeps current is sent when something else of its part changes."""
    page, shared = Page(), some_broadcasts()
    page.parts = {"one": '<time datetime="x" data-show="age">1 s</time> old'}
    async with asyncio.timeout(20), shared.reading(page.source, 0) as (reader, news):
        await _take(reader, news)
        page.parts = {"one": '<time datetime="x" data-show="age">2 s</time> old'}
        await page.next()
        assert news() is None
        page.parts = {"one": '<time datetime="y" data-show="age">2 s</time> old'}
        assert {"one"} == set((await _take(reader, news)).html)


async def test_a_failure_ends_no_page() -> None:
    """While the log is out of reach open pages keep what they show, and go on afterwards."""
    page, shared = Page(), some_broadcasts()
    async with asyncio.timeout(20), shared.reading(page.source, 0) as (reader, news):
        await _take(reader, news)
        page.failure = LogUnavailable("away")
        await page.next()
        assert news() is None
        with pytest.raises(LogUnavailable):
            await shared.newest(page.source)
        page.failure, page.parts["one"] = None, "back"
        assert {"one": "back"} == dict((await _take(reader, news)).html)
