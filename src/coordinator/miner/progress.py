"""What running attempts say of themselves: gathered as it comes, sent in slices of time.

`emit` and `progress` may be called from any thread, thousands of times a second; what leaves is one report
per attempt and slice. A transport that is slow or away delays nobody: text waits, bounded, and beyond that
its oldest part is missing, which `offset` shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

from coordinator.wire.limits import MAX_PROGRESS_NOTE, MAX_PROGRESS_TEXT

SLICE_SECONDS: Final = 0.075
LONGEST_SLICE_SECONDS: Final = 2.0
"""Between reports while they do not get through."""
FLUSH_SECONDS: Final = 1.0
SENDERS: Final = 8
"""Reports that are under way at the same time."""

Report = dict[str, Any]
Send = Callable[[Report], Awaitable[bool]]
"""Sends a report once; False where it certainly did not arrive. Never raises."""


class AttemptProgress:
    """What one attempt says. Thread-safe, but for `take` and `missed`, which the reporter calls."""

    def __init__(self, names: Report, on_news: Callable[[AttemptProgress], None]) -> None:
        """`names`: the members that say which attempt it is, and whose."""
        self.names = names
        self.fraction = 0.0
        self.order = asyncio.Lock()
        """Reports of one attempt leave one after the other."""
        self._on_news = on_news
        self._lock = threading.Lock()
        self._seq = 0
        self._note = ""
        self._said = False
        self._pieces: list[str] = []
        self._kept = 0
        """Characters in `_pieces`."""
        self._end = 0
        """Characters of text in all."""
        self._sent = 0

    def progress(self, fraction: float, note: str) -> None:
        """How much is done (0..1), and a word for what is being done."""
        with self._lock:
            self.fraction = min(1.0, max(0.0, float(fraction)))
            self._note = _storable(str(note)[:MAX_PROGRESS_NOTE])
            self._said = True
        self._on_news(self)

    def emit(self, text: str) -> None:
        """The text output so far grows by this."""
        if not text:
            return
        text = _storable(text)
        with self._lock:
            self._pieces.append(text)
            self._kept += len(text)
            self._end += len(text)
            if self._kept > 2 * MAX_PROGRESS_TEXT:
                self._whole()
        self._on_news(self)

    @property
    def unsent(self) -> bool:
        """Whether there is anything to report."""
        return self._said or self._sent < self._end

    def take(self, *, whole: bool = False) -> Report | None:
        """The next report, if there is anything to report. `whole`: all that is kept, whatever was sent."""
        with self._lock:
            if not whole and not self.unsent:
                return None
            self._seq += 1
            report: Report = {**self.names, "seq": self._seq}
            if self._said or (whole and self._note):
                report |= {"fraction": self.fraction, "note": self._note}
            if whole or self._sent < self._end:
                text = self._whole()
                start = max(0 if whole else self._sent, self._end - len(text))
                report |= {"text": text[len(text) - (self._end - start) :] if self._end > start else ""}
                report["offset"] = start
            if whole:
                report["whole"] = True
            self._said, self._sent = False, self._end
            return report

    def missed(self, report: Report) -> None:
        """This report did not arrive: the next one says it again."""
        with self._lock:
            self._said = self._said or "fraction" in report
            if report.get("text"):
                self._sent = min(self._sent, report["offset"])

    def _whole(self) -> str:
        """The kept text, in one piece."""
        text = "".join(self._pieces)[-MAX_PROGRESS_TEXT:]
        self._pieces, self._kept = [text], len(text)
        return text


class Reporter:
    """Sends the reports of all attempts of a miner. Lives on one event loop; `run` it as a task."""

    def __init__(self, send: Send, slice_seconds: float = SLICE_SECONDS) -> None:
        self._send = send
        self._slice = slice_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._news: dict[AttemptProgress, None] = {}
        self._woken = asyncio.Event()
        self._sending = asyncio.Semaphore(SENDERS)

    def attempt(self, names: Report) -> AttemptProgress:
        """The progress of a new attempt."""
        return AttemptProgress(names, self._on_news)

    async def run(self) -> None:
        """Until cancelled. The first word leaves at once; what follows within a slice leaves together."""
        self._loop = asyncio.get_running_loop()
        pause = self._slice
        if self._news:
            self._woken.set()
        while True:
            await self._woken.wait()
            self._woken.clear()
            with self._lock:
                news, self._news = list(self._news), {}
            arrived = await asyncio.gather(*(self.flush(attempt) for attempt in news))
            pause = self._slice if all(arrived) else min(2 * pause, LONGEST_SLICE_SECONDS)
            for attempt, there in zip(news, arrived, strict=True):
                if not there:
                    self._on_news(attempt)
            await asyncio.sleep(pause)

    async def flush(self, attempt: AttemptProgress) -> bool:
        """Send what an attempt has said now; False where it did not arrive."""
        async with attempt.order:
            report = attempt.take()
            return report is None or await self._deliver(attempt, report)

    async def finish(self, attempt: AttemptProgress) -> None:
        """Its last words, before its result; not for longer than a moment."""
        try:
            if attempt.unsent:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.flush(attempt)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._news.pop(attempt, None)

    async def send_whole(self, attempt: AttemptProgress) -> None:
        """Somebody begins to watch: send the text so far."""
        async with attempt.order:
            report = attempt.take(whole=True)
            assert report is not None
            await self._deliver(attempt, report)

    async def _deliver(self, attempt: AttemptProgress, report: Report) -> bool:
        arrived = False
        try:
            async with self._sending:
                arrived = await self._send(report)
        finally:
            if not arrived:
                attempt.missed(report)
        return arrived

    def _on_news(self, attempt: AttemptProgress) -> None:
        with self._lock:
            first = not self._news
            self._news[attempt] = None
        if first and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody listens any more
                self._loop.call_soon_threadsafe(self._woken.set)


def _storable(text: str) -> str:
    """As long as it was, without what no store can keep: NUL and lone surrogates."""
    if text.isascii():
        return text.replace("\0", "?")
    return text.replace("\0", "?").encode("utf-8", "replace").decode()
