"""The page Audit: what the coordinator itself can say honestly of its log and tables.

It compares its own tables with its own log, and says up to where. That proves nothing to somebody who does
not trust it: `coordinator audit` replays a copy of the log and checks every signature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer

Verdict = Literal["holds", "broken", "not yet checked", "not checked here"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvariantLine:
    """One invariant."""

    name: str
    verdict: Verdict
    text: str
    """What was compared, or how to check it."""
    checked_at: Millis | None
    position: int | None
    """The last position that the check covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditView:
    head: int
    """The log's last position."""
    checked_to: int
    """The position up to which the read models equal a fold of the log; 0 before the first check."""
    checkpoint_size: int | None
    checkpoint_root: str | None
    """Hex."""
    checkpoint_at: Millis | None
    witnesses: int
    witnessed: int
    invariants: tuple[InvariantLine, ...]
    divergence: str | None
    """The first difference, in a sentence."""
    command: str
    """The command that audits without trust in this coordinator."""
    now: Millis


async def load(context: EdgeContext, viewer: Viewer) -> AuditView:
    """The state of the log's proofs and of the last checks. Raises Refusal."""
    raise NotImplementedError
