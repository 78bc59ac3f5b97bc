"""The pages Miners and Miner: the fleet, one miner, and why it has no work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.job import ReasonLine
from coordinator.edge.dashboard.data.jobs import FoundJob
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.models.miners import MinerState, StandingView


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerLine:
    """One row of the list."""

    miner_id: str
    principal: str
    state: MinerState
    profile: str
    gpus: tuple[str, ...]
    """`NVIDIA RTX 4090, 24 GB`, one for each card."""
    services: tuple[str, ...]
    models: tuple[str, ...]
    region: str | None
    price: str | None
    slots: int
    busy: int
    registered_at: Millis
    last_seen: Millis | None
    """The last heartbeat of its live session; None without one."""
    completed: int
    """Of the attempts of its principal that are remembered, with those below."""
    failed: int
    """Failed, lost or far too slow."""
    quarantined: str
    """Why its principal is in quarantine; empty if it is not."""

    @property
    def success_rate(self) -> float | None:
        """From 0 to 1; None before the first outcome."""
        ended = self.completed + self.failed
        return self.completed / ended if ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerList:
    miners: tuple[MinerLine, ...]
    next_cursor: str | None
    by_state: dict[str, int]
    now: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class ImprovementLine:
    """The smallest change of one capability that would bring jobs."""

    constraint: str
    text: str
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerStory:
    """Everything that the page of one miner shows."""

    miner: MinerLine
    sentence: str
    """Why it has no work, or that it works."""
    reasons: tuple[ReasonLine, ...]
    improvements: tuple[ImprovementLine, ...]
    queued_fitting: int
    queued_of_its_services: int
    capabilities: dict[str, Any]
    gpu_memory: dict[str, Any] | None
    """What its heartbeat said last of the free memory of its GPUs, with `at`."""
    session_id: str
    public_key: str
    changed_at: Millis
    standings: tuple[StandingView, ...]
    running: tuple[FoundJob, ...]
    """The jobs that it holds now, 50 at most; empty for a miner's own key."""
    may_operate: bool
    """Whether this viewer may drain it, and quarantine or release its principal."""
    now: Millis


async def load(
    context: EdgeContext, viewer: Viewer, state: str = "", cursor: str | None = None, limit: int = 50
) -> MinerList:
    """A page of miners by id; an empty state for all. Raises Refusal."""
    raise NotImplementedError


async def story(context: EdgeContext, viewer: Viewer, miner_id: str) -> MinerStory:
    """One miner; a miner's key sees its own ones. Raises Refusal."""
    raise NotImplementedError


async def drain(context: EdgeContext, viewer: Viewer, miner_id: str) -> int:
    """Drain the miner as this viewer; the position of the effect. Raises Refusal."""
    raise NotImplementedError


async def quarantine(
    context: EdgeContext, viewer: Viewer, principal: str, service: str | None, reason: str
) -> int:
    """Give a principal's miners no more jobs of a service (None: of any). Raises Refusal."""
    raise NotImplementedError


async def release(
    context: EdgeContext, viewer: Viewer, principal: str, service: str | None, reason: str
) -> int:
    """End a quarantine. Raises Refusal."""
    raise NotImplementedError
