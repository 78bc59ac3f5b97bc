"""Asks `/health/ready` all the while, from a thread of its own, and remembers every change."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from typing import NamedTuple, Self

from tests.harness.waiting import eventually

ASK_SECONDS = 0.1
WITHIN_SECONDS = 5.0
"""A fault shows within this time."""


class Change(NamedTuple):
    at: float
    """Monotonic seconds."""
    ready: bool
    reasons: tuple[str, ...]


class HealthWatch:
    """Of the coordinator at `url`; a process that does not answer is not ready."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/health/ready"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.changes: list[Change] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def ready(self) -> bool:
        return bool(self.changes) and self.changes[-1].ready

    async def fails(self, since: float, reason: str) -> float:
        """Until it was not ready with this in a reason; how many seconds after `since`, at most five."""

        def found() -> Change | None:
            told = (c for c in self.changes if c.at >= since and not c.ready)
            return next((c for c in told if any(reason in text for text in c.reasons)), None)

        change = await eventually(found, f"not ready because of {reason!r}; was: {self.changes[-5:]}", 15.0)
        assert change is not None
        assert change.at - since <= WITHIN_SECONDS, f"{reason}: shown only after {change.at - since:.1f} s"
        return change.at - since

    async def works(self) -> None:
        """Until it is ready again."""
        try:
            await eventually(lambda: self.ready, "ready again", 45.0)
        except AssertionError as error:
            raise AssertionError(f"not ready again: {self.changes[-3:]}") from error

    def never_failed(self, since: float) -> bool:
        """Whether it has been ready all the time since."""
        return self.ready and all(c.ready for c in self.changes if c.at >= since)

    def _run(self) -> None:
        while not self._stop.is_set():
            ready, reasons = self._ask()
            if not self.changes or (ready, reasons) != self.changes[-1][1:]:
                self.changes.append(Change(time.monotonic(), ready, reasons))
            self._stop.wait(ASK_SECONDS)

    def _ask(self) -> tuple[bool, tuple[str, ...]]:
        try:
            with urllib.request.urlopen(self._url, timeout=5) as answer:
                body = json.load(answer)
        except urllib.error.HTTPError as error:
            body = json.load(error)
        except OSError as error:
            return False, (f"no answer: {type(error).__name__}",)
        return bool(body["ready"]), tuple(body["reasons"])
