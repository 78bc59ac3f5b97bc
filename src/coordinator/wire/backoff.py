"""Waiting between tries."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryClock:
    """Monotonic seconds, and a sleep."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling delays with jitter, so that processes that failed together do not retry in step."""

    first_seconds: float = 0.1
    longest_seconds: float = 10.0
    jitter: Callable[[], float] = random.random

    def delay(self, tries: int) -> float:
        """Seconds to wait after `tries` failures (0, 1, …): between half and all of the doubled delay."""
        whole = min(self.longest_seconds, self.first_seconds * float(2 ** min(tries, 30)))
        return whole * (0.5 + self.jitter() / 2)
