"""The time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.domain.messages import Millis


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall-clock milliseconds for facts, monotonic seconds for waiting."""

    now: Callable[[], Millis]
    monotonic: Callable[[], float]
