"""The last hour, counted from the event feed."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.domain.messages import Millis


class Quantiles(NamedTuple):
    """Seconds. `values`: how many they are of."""

    p50: float
    p90: float
    p99: float
    values: int


class Minute(NamedTuple):
    """One minute of the last hour."""

    begin: Millis
    submitted: int
    completed: int
    failed: int
    """Failed for good, canceled or expired jobs have their own counts."""
    canceled: int
    expired: int
    retried: int
    """Attempts that ended without a result, and whose job was queued again."""
    delay: Quantiles | None
    """From queued to claimed, of the jobs that were claimed in it."""
