"""The backlog of a work queue, as far as a process knows: whether it may hold something for our polls.

It need not ask. Our own messages are counted out and in, and a consumer that sits without a message says that
the queue was empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

SIT_SECONDS: Final = 0.05
"""A consumer that had no message for so long says that the queue is empty, and a poll that had no offer for
so long gets a consumer in any case."""


class Backlog:
    """Of one queue; times are those of one clock."""

    def __init__(self) -> None:
        self._unknown = True
        """It may hold messages that are not ours."""
        self._ours = 0
        """Messages that we published and did not get back."""
        self._published_at = -math.inf

    def note_published(self, messages: int, now: float) -> None:
        self._ours += messages
        self._published_at = now

    def note_arrived(self) -> None:
        """A consumer of ours got a message."""
        if self._ours:
            self._ours -= 1
        else:
            self._unknown = True  # another process publishes

    def note_reset(self) -> None:
        """The queue, or our consumers, were made anew."""
        self._unknown = True

    def may_hold(self, free_since: Iterable[float], now: float) -> bool:
        """Whether it may hold something; our consumers are without a message since these times."""
        if (self._unknown or self._ours) and min(free_since, default=now) <= now - SIT_SECONDS:
            self._unknown = False
            if self._published_at <= now - SIT_SECONDS:
                self._ours = 0  # other consumers got them
        return self._unknown or self._ours > 0
