"""What the parts of one process count, as they stand at one moment: for metrics, benchmarks and operators.

Taking figures costs no I/O. What only the tables know (how many jobs wait) is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BusMetrics:
    """The command bus since its start."""

    commands: int
    refusals: Mapping[str, int]
    """By code."""
    events: Mapping[str, int]
    """By topic."""
    batches: int
    batch_sizes: tuple[int, ...]
    """`batch_sizes[n]`: batches of more than 2**(n-1) and at most 2**n commands; the last has the rest."""
    conflicts: int
    singled_out: int
    commits: int
    commit_seconds: float
    slowest_commit_seconds: float
    waiting: int
    """Commands that are not in a batch yet."""
    cached: int
    """Aggregates in memory."""


@dataclass(frozen=True, slots=True)
class FollowerMetrics:
    """A follower in this process."""

    status: str
    position: int
    """How far it has come; as of its last leadership where another process leads."""


@dataclass(frozen=True, slots=True)
class WorkMetrics:
    """Open work and miners, as the dispatcher knows them that leads here."""

    offered: int
    running: int
    sessions: Mapping[str, int]
    """Miners' sessions by state."""
    slots: int
    """Of the sessions that take new work."""
    busy_slots: int
    profiles: int
    classes: int


@dataclass(frozen=True, slots=True)
class CoordinatorMetrics:
    """All of them."""

    mode: str = "embedded"
    position: int = 0
    """The last position of the log that is known here."""
    broker_up: bool = True
    bus: BusMetrics | None = None
    followers: Mapping[str, FollowerMetrics] = field(default_factory=dict)
    work: WorkMetrics | None = None
    """None where another process dispatches."""
