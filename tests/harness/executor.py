"""The service `rehearsal`: work that the tests control, and what it says of its runs in files.

Payload: `{"seconds": s}` takes so long; `{"until": "name"}` runs until the file `name` is there;
`{"fail": "final" | "retryable"}` fails; `{"tokens": n, "pause": s}` emits n tokens, so long apart, every
other one from another thread, and goes on slowly while it waits for `until`. Whatever it does it first
notes `begun-<job>-<attempt>-<miner>`, and `stopped-…` when it is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from coordinator.miner.executors.base import Outcome, Work
from coordinator.miner.executors.errors import ExecutorError

SERVICE = "rehearsal"
SLOW_SECONDS = 0.5
SPEC: dict[str, Any] = {
    "id": SERVICE,
    "name": "Rehearsal",
    "category": "development_tools",
    "description": "Work that tests control.",
    "input_schema": {"type": "object"},
    "output_schema": {"type": "object"},
    "pricing": {"unit": "second", "amount": "0.5"},
    "timeout_seconds": 600,
}


def token_of(number: int) -> str:
    return f"token {number} \N{SNOWMAN}\n"


def text_of_tokens(count: int) -> str:
    """What a run has emitted with its first `count` tokens."""
    return "".join(map(token_of, range(count)))


class Rehearsal:
    """Notes are files in `folder`."""

    services: tuple[str, ...] = (SERVICE,)

    def __init__(self, folder: Path, miner: str) -> None:
        self._folder = folder
        self._miner = miner

    async def check(self) -> str | None:
        return None

    async def run(self, work: Work) -> Outcome:
        self._note("begun", work)
        try:
            await self._do(work)
        except asyncio.CancelledError:
            self._note("stopped", work)
            raise
        return Outcome({"echo": dict(work.payload), "miner": self._miner}, {"attempt": work.attempt})

    async def _do(self, work: Work) -> None:
        payload = work.payload
        if "seconds" in payload:
            await asyncio.sleep(payload["seconds"])
        for number in range(payload.get("tokens", 0)):
            token = token_of(number)
            if number % 2:
                await asyncio.to_thread(work.emit, token)
            else:
                work.emit(token)
            work.progress((number + 1) / payload["tokens"], f"token {number}")
            await asyncio.sleep(payload["pause"])
        if "until" in payload:
            awaited = self._folder / payload["until"]
            began, number = time.monotonic(), payload.get("tokens", 0)
            while not awaited.exists():
                await asyncio.sleep(0.02)
                if "tokens" in payload and time.monotonic() > began + SLOW_SECONDS:
                    work.emit(token_of(number))
                    began, number = time.monotonic(), number + 1
        if "fail" in payload:
            raise ExecutorError("REHEARSED", "as asked for", retryable=payload["fail"] == "retryable")

    def mended(self) -> bool:
        """Whether the test has left a note that this miner works as it should from now on."""
        return (self._folder / f"mended-{self._miner}").exists()

    def _note(self, what: str, work: Work) -> None:
        (self._folder / f"{what}-{work.job_id}-{work.attempt}-{self._miner}").touch()


class Failing(Rehearsal):
    """Fails all work at once, until it is mended."""

    async def run(self, work: Work) -> Outcome:
        if not self.mended():
            self._note("failed", work)
            raise ExecutorError("WILL_NOT", "does no work", retryable=True)
        return await super().run(work)


class Hoarding(Rehearsal):
    """Keeps all work, with heartbeats and without an end, until it is mended."""

    async def run(self, work: Work) -> Outcome:
        self._note("held", work)
        while not self.mended():  # noqa: ASYNC110 - another process leaves the note
            await asyncio.sleep(0.05)
        return await super().run(work)


MANNERS: dict[str, type[Rehearsal]] = {"works": Rehearsal, "fails": Failing, "hoards": Hoarding}
