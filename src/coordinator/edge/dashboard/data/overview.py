"""The page Overview: figures of now and of the last hour, and what needs attention.

Everything is computed once for all viewers of the same audience, at most twice a second.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.application.figures.attention import Attention as Attention
from coordinator.application.figures.window import Minute as Minute
from coordinator.application.figures.window import Quantiles as Quantiles
from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.jobs import StateCount
from coordinator.edge.dashboard.data.viewer import Viewer


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowerLag:
    """How far one reader of the log is behind."""

    name: str
    status: str
    """`leading`, `standby`, `failed` or `stopped`."""
    position: int
    behind: int
    """Positions behind the log; of a standby as of its last leadership."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """The slots of the miners online. Counted by the process that dispatches."""

    busy: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFigure:
    """The last signed checkpoint."""

    size: int
    """Events."""
    signed_at: Millis
    witnesses: int
    witnessed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The figures that clients do not see."""

    miners: dict[str, int]
    """By state."""
    slots: Slots | None
    """None in a process that does not dispatch."""
    followers: tuple[FollowerLag, ...]
    checkpoint: CheckpointFigure | None
    """None if this process has signed none."""
    minutes: tuple[Minute, ...]
    """The last hour, oldest first; minutes before `since` are absent."""
    delay: Quantiles | None
    """From queued to claimed, in the last five minutes; None without a claim in them."""
    since: Millis
    """The moment from which this process counts; later than an hour ago after a restart."""
    sampled: int
    """One in so many jobs is in `delay`: 1, unless very many wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The page's figures. `fleet` None: of a client."""

    at: Millis
    position: int
    states: tuple[StateCount, ...]
    queued: int | None
    """All queued jobs; None if the tables are out of reach."""
    oldest_queued_at: Millis | None
    fleet: Fleet | None
    attention: tuple[Attention, ...]


async def load(context: EdgeContext, viewer: Viewer) -> Overview:
    """The overview for this viewer: a client's is of its own jobs. Raises Refusal."""
    raise NotImplementedError
