"""Counts requests by operation, status and duration, at a microsecond a request."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Scope

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds. Waits (for work, for a result) are requests too, so the scale goes up to the longest of them."""
NO_OPERATION: Final = "none"
"""The one label of all unknown paths: senders choose their names."""


@dataclass(slots=True)
class Durations:
    """How long the requests of one operation took."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    """`counts[n]`: more than BUCKETS[n - 1] and at most BUCKETS[n] seconds; the last one: all longer ones."""
    seconds: float = 0.0


class HttpMetrics:
    """The requests of one app. Used from its event loop."""

    def __init__(self) -> None:
        self.durations: dict[str, Durations] = {}
        """By operation: as many as there are endpoints."""
        self.statuses: dict[tuple[str, int], int] = {}
        """By operation and status."""
        self.under_way = 0

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """A request has ended."""
        route = scope.get("route")
        operation = NO_OPERATION if route is None else route.name
        durations = self.durations.get(operation)
        if durations is None:
            durations = self.durations[operation] = Durations()
        durations.counts[bisect_left(BUCKETS, seconds)] += 1
        durations.seconds += seconds
        ended = (operation, status)
        self.statuses[ended] = self.statuses.get(ended, 0) + 1

    def take(self) -> list[Any]:
        """All counts since the last call, as JSON for `add` of another process; empty if there are none."""
        durations, self.durations = self.durations, {}
        statuses, self.statuses = self.statuses, {}
        if not statuses:
            return []
        return [
            [[operation, d.counts, d.seconds] for operation, d in durations.items()],
            [[operation, status, count] for (operation, status), count in statuses.items()],
        ]

    def add(self, taken: Any) -> None:
        """Add the counts of another process. Raises ValueError or TypeError for anything else."""
        durations, statuses = taken
        for operation, counts, seconds in durations:
            own = self.durations.setdefault(str(operation), Durations())
            own.counts = [int(a) + int(b) for a, b in zip(own.counts, counts, strict=True)]
            own.seconds += float(seconds)
        for operation, status, count in statuses:
            ended = (str(operation), int(status))
            self.statuses[ended] = self.statuses.get(ended, 0) + int(count)
