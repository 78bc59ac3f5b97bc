"""When a message is tried, and how much may be under way. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DELAYS: Final = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Before each try, after the one before it: at once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
About what Standard Webhooks recommend; 75.6 hours in all."""
JITTER: Final = 0.1
"""The greatest part of a delay that is added by chance, so that a receiver that comes back is not stormed."""
WHOLE_MILLIS: Final = int(sum(DELAYS) * (1 + JITTER) * 1000)
"""A message about an older event is of no use to anybody: it is not made (a log that was imported, say)."""
MAX_RETRY_AFTER: Final = 3600
"""The longest wait that a receiver may ask for by `Retry-After`."""
NOT_READY_SECONDS: Final = 0.25
"""Until the next look for data that the read models do not have yet."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many messages may be under way at a time."""

    total: int = 32
    of_owner: int = 8
    of_receiver: int = 4
    of_failing_receiver: int = 1
    """A receiver whose last answer was a failure is tried one message at a time."""

    @classmethod
    def of(cls, total: int) -> Bounds:
        """The usual shares of so many places."""
        return cls(total, max(1, total // 4), max(1, total // 8))

    @property
    def failing(self) -> int:
        """For all failing receivers together: the others always have the other half."""
        return max(1, self.total // 2)


def next_due(now: int, tries: int, chance: float, retry_after: float | None = None) -> int | None:
    """When the next try is due (Unix milliseconds) after `tries` failed ones; None after the last.

    `chance`: 0 to 1. `retry_after`: the receiver's own wish in seconds.
    """
    if tries >= len(DELAYS):
        return None
    delay = DELAYS[tries] * (1 + JITTER * chance)
    return now + int(max(delay, min(retry_after or 0, MAX_RETRY_AFTER)) * 1000)
