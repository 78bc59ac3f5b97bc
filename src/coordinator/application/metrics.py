"""The metrics of one process at one moment, for the metrics endpoint, benchmarks and operators.

Collecting them costs no I/O, so they leave out facts that only the tables have (such as the number of waiting
jobs).
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
    """Commands without a batch yet."""
    cached: int
    """Aggregates in memory."""


@dataclass(frozen=True, slots=True)
class FollowerMetrics:
    """A follower in this process."""

    status: str
    position: int
    """The position of the follower; that of its last leadership here if another process leads."""


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
