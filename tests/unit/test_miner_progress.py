"""What a miner reports of running attempts: slices, bounds, threads, and what does not arrive."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator.miner.progress import AttemptProgress, Report, Reporter
from coordinator.wire.limits import MAX_PROGRESS_TEXT

NAMES: Report = {"job_id": "j", "attempt": 1}


class Ear:
    """Hears reports; `deaf` says how many more do not arrive."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.deaf = 0
        self.heard = asyncio.Condition()

    async def send(self, report: Report) -> bool:
        async with self.heard:
            if self.deaf:
                self.deaf -= 1
                self.heard.notify_all()
                return False
            self.reports.append(report)
            self.heard.notify_all()
        return True

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20), self.heard:
            await self.heard.wait_for(condition)

    @property
    def text(self) -> str:
        """What a reader has put together; fails on a gap or an overlap."""
        text = ""
        for report in self.reports:
            if report.get("text"):
                assert len(text) == report["offset"], self.reports
                text += report["text"]
        return text


@pytest.fixture
def ear() -> Ear:
    return Ear()


@contextlib.asynccontextmanager
async def running(reporter: Reporter) -> AsyncIterator[None]:
    task = asyncio.create_task(reporter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_burst_leaves_as_few_reports(ear: Ear) -> None:
    """The first word leaves at once, and a thousand that follow within a slice leave together, in order."""
    reporter = Reporter(ear.send, slice_seconds=0.05)
    attempt = reporter.attempt(NAMES)
    async with running(reporter):
        attempt.emit("0,")
        await ear.until(lambda: ear.text)
        assert [{**NAMES, "seq": 1, "text": "0,", "offset": 0}] == ear.reports
        for number in range(1, 1000):
            attempt.emit(f"{number},")
        attempt.progress(0.5, "counting")
        await ear.until(lambda: ear.text.endswith("999,"))
    assert "".join(f"{n}," for n in range(1000)) == ear.text
    assert len(ear.reports) <= 3
    assert (0.5, "counting") == (ear.reports[-1]["fraction"], ear.reports[-1]["note"])


async def test_threads_may_speak(ear: Ear) -> None:
    """Text from worker threads arrives whole; each thread's in its order."""
    reporter = Reporter(ear.send, slice_seconds=0.01)
    attempt = reporter.attempt(NAMES)

    def speak(letter: str) -> None:
        for _ in range(500):
            attempt.emit(letter)
            attempt.progress(0.1, letter)

    async with running(reporter):
        threads = [threading.Thread(target=speak, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        await ear.until(lambda: len(ear.text) == 2000)
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
    assert {"a": 500, "b": 500, "c": 500, "d": 500} == {c: ear.text.count(c) for c in "abcd"}
    assert sorted(r["seq"] for r in ear.reports) == [r["seq"] for r in ear.reports]


async def test_what_did_not_arrive_is_said_again(ear: Ear) -> None:
    """A report that is lost on the way costs time, not text."""
    ear.deaf = 3
    reporter = Reporter(ear.send, slice_seconds=0.001)
    attempt = reporter.attempt(NAMES)
    async with running(reporter):
        attempt.emit("a")
        attempt.progress(0.25, "on it")
        await ear.until(lambda: ear.deaf < 3)
        attempt.emit("b")
        await ear.until(lambda: ear.text == "ab")
    assert 0.25 == ear.reports[-1]["fraction"]


def test_memory_is_bounded_and_the_gap_shows() -> None:
    """Where nobody takes the text for long, its end is kept, with the place where that begins."""
    attempt = AttemptProgress(NAMES, lambda _: None)
    for _ in range(10):
        attempt.emit("x" * MAX_PROGRESS_TEXT)
    attempt.emit("the end")
    report = attempt.take()
    assert report
    assert MAX_PROGRESS_TEXT == len(report["text"])
    assert 9 * MAX_PROGRESS_TEXT + len("the end") == report["offset"]
    assert report["text"].endswith("xthe end")
    assert attempt.take() is None


def test_the_whole_text_on_request() -> None:
    """For a late reader everything is said again, from its beginning, with what is being done."""
    attempt = AttemptProgress(NAMES, lambda _: None)
    attempt.progress(0.5, "writing")
    attempt.emit("abc")
    attempt.take()
    attempt.emit("def")
    said = {"fraction": 0.5, "note": "writing", "text": "abcdef", "offset": 0, "whole": True}
    assert {**NAMES, "seq": 2, **said} == attempt.take(whole=True)
    assert attempt.take() is None
    empty = AttemptProgress(NAMES, lambda _: None).take(whole=True)
    assert {**NAMES, "seq": 1, "text": "", "offset": 0, "whole": True} == empty


def test_nothing_unstorable_leaves() -> None:
    """NUL and lone surrogates become one other character each, so that places stay right; NaN is 0."""
    attempt = AttemptProgress(NAMES, lambda _: None)
    attempt.progress(float("nan"), "a\0b")
    attempt.emit("a\0\ud800é")
    report = attempt.take()
    assert report
    assert (0.0, "a?b", "a??é") == (report["fraction"], report["note"], report["text"])


async def test_last_words_wait_for_a_moment_only(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the result what is unsent leaves; a transport that hangs does not hold up the result."""
    reporter = Reporter(ear.send)
    attempt = reporter.attempt(NAMES)
    attempt.emit("bye")
    await reporter.finish(attempt)
    assert "bye" == ear.text

    async def hang(_: Report) -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr("coordinator.miner.progress.FLUSH_SECONDS", 0.01)
    reporter = Reporter(hang)
    attempt = reporter.attempt(NAMES)
    attempt.emit("bye")
    async with asyncio.timeout(5):
        await reporter.finish(attempt)
