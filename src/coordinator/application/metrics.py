"""The metrics of one process at one moment, for the metrics endpoint, benchmarks and operators.

Collecting them costs no I/O, so they leave out facts that only the tables have (such as the number of waiting
jobs).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

COMMIT_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WAIT_SECONDS: Final = (
    0.01,
    0.05,
    0.1,
    0.5,
    1.0,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    900.0,
    3600.0,
    14400.0,
    86400.0,
)
"""Of jobs: from those that are done at once to those that take a night."""


class Histogram:
    """Observed values, by the first limit that they do not exceed."""

    __slots__ = ("_counts", "limits", "total")

    def __init__(self, limits: Sequence[float]) -> None:
        self.limits = limits
        self.total = 0.0
        """The sum of all values."""
        self._counts = [0] * (len(limits) + 1)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.limits, value)] += 1
        self.total += value

    def cumulated(self) -> list[int]:
        """For each limit, the values up to it; then all values."""
        return list(accumulate(self._counts))


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
    commits: Histogram
    """Seconds that appends took."""
    slowest_commit_seconds: float
    waiting: int
    """Commands without a batch yet."""
    cached: int
    """Aggregates in memory."""


@dataclass(frozen=True, slots=True)
class FollowerMetrics:
    """A follower in this process."""

    status: str
    position: int
    """The position of the follower; that of its last leadership here if another process leads."""
    stalled_seconds: float = 0.0
    """For how long a follower that leads here has stood still behind the log; 0 while it moves."""


@dataclass(frozen=True, slots=True)
class PartHealth:
    """One part of the process at one moment."""

    ok: bool
    reason: str | None
    """Why it does not work. Public, without secrets."""
    failures: int
    """How often it began to fail."""


@dataclass(frozen=True, slots=True)
class WorkMetrics:
    """Open work and miners, as known to the dispatcher that leads here."""

    offered: int
    running: int
    sessions: Mapping[str, int]
    """Number of sessions by state."""
    slots: int
    """Slots of the sessions that take new work."""
    busy_slots: int
    profiles: int
    classes: int


@dataclass(frozen=True, slots=True)
class OpenOffers:
    """The offers on the work queues, as known to the dispatcher that leads here."""

    by_class: Mapping[str, int]
    by_profile: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class QuotaMetrics:
    """The quotas of all names together; what was refused and removed by this process since its start."""

    names: int
    """Names that use anything."""
    own_limits: int
    """Names with limits of their own."""
    payload_bytes: int
    blob_bytes: int
    refusals: Mapping[str, int]
    """By limit."""
    expired: Mapping[str, int]
    """Removed files, payloads, results and rows, by kind."""


@dataclass(frozen=True, slots=True)
class ProofMetrics:
    """The checkpoints that this process signs, and their witnesses."""

    size: int
    """The events in the last one."""
    position: int
    """The position of the last one of them."""
    signed_at: int
    """Unix milliseconds."""
    witnesses: int
    """Witnesses in the settings."""
    witnessed: int
    """Those that sign without a problem."""


@dataclass(frozen=True, slots=True)
class WebhookMetrics:
    """Messages to receivers, of this process since its start."""

    tries: Mapping[str, int]
    """By outcome: delivered, failed. A try is one or the other."""
    given_up: int
    """Messages that are not tried again."""
    under_way: int


@dataclass(frozen=True, slots=True)
class SettlementMetrics:
    """Settlement batches, as the process knows them that sends them."""

    open: int = 0
    """Batches that are closed and not settled: 0 or 1."""
    in_transit: int = 0
    """Their money that is neither paid nor back, in 10⁻⁶ of the unit."""
    oldest_seconds: float = 0.0
    """Since the close of the oldest of them."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Since the start of this process, by outcome: confirmed, refused, reverted."""


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """A permanent queue on the broker, as of a moment ago."""

    messages: int
    """Those that wait."""
    consumers: int


@dataclass(frozen=True, slots=True)
class BrokerMetrics:
    """The broker, as this process sees it since its start."""

    disconnections: int
    publishes: Mapping[str, int]
    """By outcome: confirmed, unroutable or unknown."""
    dead_letters: Mapping[str, int]
    """By code."""
    queues: Mapping[str, QueueMetrics]


@dataclass(frozen=True, slots=True)
class JobMetrics:
    """The jobs that were claimed and ended by commands of this process since its start."""

    queue_delays: Mapping[str, Histogram]
    """By service: seconds from the moment when an attempt could be claimed to its claim."""
    runs: Mapping[tuple[str, str], Histogram]
    """By service and outcome: seconds from the claim to the end of the attempt."""


@dataclass(frozen=True, slots=True)
class DiskMetrics:
    """A disk that this process writes to."""

    free_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CoordinatorMetrics:
    """All metrics of a process."""

    mode: str = "embedded"
    position: int = 0
    """The last position of the log that this process knows."""
    broker_up: bool = True
    bus: BusMetrics | None = None
    parts: Mapping[str, PartHealth] = field(default_factory=dict)
    followers: Mapping[str, FollowerMetrics] = field(default_factory=dict)
    work: WorkMetrics | None = None
    """None if another process dispatches."""
    quotas: QuotaMetrics | None = None
    proof: ProofMetrics | None = None
    """None if this process has signed no checkpoint yet."""
    webhooks: WebhookMetrics | None = None
    settlement: SettlementMetrics = SettlementMetrics()
    """Of nothing, where no batches are settled: an alert needs figures that are there."""
    divergences: Mapping[str, int] = field(default_factory=dict)
    """By check: 1 while this process knows that the log is not the one that it should be."""
    broker: BrokerMetrics | None = None
    """None in a mode without a broker."""
    jobs: JobMetrics | None = None
