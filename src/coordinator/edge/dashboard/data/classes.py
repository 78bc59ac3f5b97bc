"""The page Classes and profiles: what waits, for whom, and what blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLine:
    """The queued jobs with equal needs."""

    job_class: str
    service: str
    constraints: dict[str, Any]
    queued: int
    oldest_at: Millis
    """When the oldest of them was asked for."""
    offers: int | None
    """On the work queues now; None in a process that does not dispatch."""
    eligible: int
    """The miners that could run them, busy or not."""
    sentence: str
    """What blocks, or that nothing does."""
    blocked: bool
    """Whether no miner can be found for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileLine:
    """The live miners with equal abilities of one principal."""

    profile: str
    principal: str
    online: int
    draining: int
    slots: int
    busy: int
    gpus: tuple[str, ...]
    services: tuple[str, ...]
    offers: int | None
    quarantined: tuple[str, ...]
    """The services that it is in quarantine for; `every service` for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassesAndProfiles:
    classes: tuple[ClassLine, ...]
    """Those that nobody serves first, then the longest waits."""
    profiles: tuple[ProfileLine, ...]
    more_classes: bool
    """Whether there are more than are shown."""
    now: Millis


async def load(context: EdgeContext, viewer: Viewer) -> ClassesAndProfiles:
    """All classes with queued jobs, and all live profiles. Raises Refusal."""
    raise NotImplementedError
