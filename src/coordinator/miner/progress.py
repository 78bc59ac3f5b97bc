"""Progress and text of running attempts: gathered, and sent in slices of time.

`emit` and `progress` may be called from any thread, thousands of times a second; one report per attempt and
slice is sent. A slow or lost connection delays no executor: the text waits, up to a bound. Beyond that the
oldest part is dropped, which `offset` shows.
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
"""Between reports while none gets through."""
FLUSH_SECONDS: Final = 1.0
SENDERS: Final = 8
"""Concurrent reports."""

Report = dict[str, Any]
Send = Callable[[Report], Awaitable[bool]]
"""Sends a report once; False if it certainly did not arrive. Never raises."""


class AttemptProgress:
    """Progress and text of one attempt. Thread-safe, except `take` and `missed`, which the reporter calls."""

    def __init__(self, names: Report, on_news: Callable[[AttemptProgress], None]) -> None:
        """`names`: the members that name the attempt, its miner and its session."""
        self.names = names
        self.fraction = 0.0
        self.order = asyncio.Lock()
        """Sends the reports of one attempt one after the other."""
        self._on_news = on_news
        self._lock = threading.Lock()
        self._seq = 0
        self._note = ""
        self._progressed = False
        """Whether `fraction` and `_note` are not reported yet."""
        self._pieces: list[str] = []
        self._kept = 0
        """Characters in `_pieces`."""
        self._end = 0
        """Characters of text in total."""
        self._sent = 0

    def progress(self, fraction: float, note: str) -> None:
        """The fraction done (0..1), and a note on the current step."""
        with self._lock:
            self.fraction = min(1.0, max(0.0, float(fraction)))
            self._note = _storable(str(note)[:MAX_PROGRESS_NOTE])
            self._progressed = True
        self._on_news(self)

    def emit(self, text: str) -> None:
        """Append to the text output."""
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
        return self._progressed or self._sent < self._end

    def take(self, *, whole: bool = False) -> Report | None:
        """The next report, if there is anything to report. `whole`: all kept text, even if sent before."""
        with self._lock:
            if not whole and not self.unsent:
                return None
            self._seq += 1
            report: Report = {**self.names, "seq": self._seq}
            if self._progressed or (whole and self._note):
                report |= {"fraction": self.fraction, "note": self._note}
            if whole or self._sent < self._end:
                text = self._whole()
                start = max(0 if whole else self._sent, self._end - len(text))
                report |= {"text": text[len(text) - (self._end - start) :] if self._end > start else ""}
                report["offset"] = start
            if whole:
                report["whole"] = True
            self._progressed, self._sent = False, self._end
            return report

    def missed(self, report: Report) -> None:
        """This report did not arrive: repeat its content in the next one."""
        with self._lock:
            self._progressed = self._progressed or "fraction" in report
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
        """Run until cancelled. The first report is sent at once; later ones are gathered for a slice."""
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
            for attempt, got_through in zip(news, arrived, strict=True):
                if not got_through:
                    self._on_news(attempt)
            await asyncio.sleep(pause)

    async def flush(self, attempt: AttemptProgress) -> bool:
        """Send an attempt's next report now; False if it did not arrive."""
        async with attempt.order:
            report = attempt.take()
            return report is None or await self._deliver(attempt, report)

    async def finish(self, attempt: AttemptProgress) -> None:
        """Send an attempt's last report before its result; gives up after FLUSH_SECONDS."""
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
        """A watcher has come: send the text so far."""
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
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._woken.set)


def _storable(text: str) -> str:
    """Text of the same length without NUL and lone surrogates, which no store can keep."""
    if text.isascii():
        return text.replace("\0", "?")
    return text.replace("\0", "?").encode("utf-8", "replace").decode()
