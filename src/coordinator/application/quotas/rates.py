"""Rates: how many commands a name may send in a minute, over AMQP and HTTP together.

One bucket of tokens a name, in this process: it holds a minute's worth and fills evenly. With several
processes a name has the rate in each of them, as with the limits of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MAX_BUCKETS = 100_000
"""Names have keys, so there are never so many; beyond it, all begin with full buckets."""


class Taken(NamedTuple):
    """The outcome of a request for tokens."""

    allowed: int
    retry_after: float
    """Seconds until the next token; 0 if all were allowed."""


class CommandRates:
    """The buckets of all names. Used on the event loop only; a clock that is set changes nothing."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens, and the moment at which the bucket had them."""

    def take(self, name: str, per_minute: int, count: int) -> Taken:
        """Take up to `count` tokens."""
        now = self._monotonic()
        full = float(per_minute)
        tokens, at = self._buckets.get(name, (full, now))
        # After a change of the limit, too: a bucket never holds more than the limit of now.
        tokens = min(full, tokens + (now - at) * per_minute / 60)
        allowed = min(count, int(tokens))
        if len(self._buckets) >= MAX_BUCKETS and name not in self._buckets:
            self._buckets.clear()
        tokens -= allowed
        self._buckets[name] = (tokens, now)
        if allowed == count:
            return Taken(allowed, 0.0)
        return Taken(allowed, 60.0 if not per_minute else max(0.1, (1 - tokens) * 60 / per_minute))
