"""Bulk cancel and submit-again on all that match: started here, carried out by the coordinator."""

from __future__ import annotations

from uuid import UUID

from coordinator.application.batches.batches import Batch, BatchKind, BatchPlan
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer

__all__ = ["Batch", "BatchKind", "BatchPlan", "cancel", "load", "plan", "recent", "start"]


async def plan(context: EdgeContext, viewer: Viewer, kind: BatchKind, query: str) -> BatchPlan:
    """What a batch would do (a dry run): how many jobs, a sample, and their states. Raises Refusal."""
    raise NotImplementedError


async def start(context: EdgeContext, viewer: Viewer, kind: BatchKind, query: str, reason: str = "") -> Batch:
    """Start a batch. Raises Refusal, also while another batch of the same name is under way."""
    raise NotImplementedError


async def load(context: EdgeContext, viewer: Viewer, batch_id: UUID) -> Batch:
    """The progress of a batch: of one's own, or of anybody's for viewers. Raises Refusal."""
    raise NotImplementedError


async def recent(context: EdgeContext, viewer: Viewer) -> tuple[Batch, ...]:
    """The newest batches, 20 at most. Raises Refusal."""
    raise NotImplementedError


async def cancel(context: EdgeContext, viewer: Viewer, batch_id: UUID) -> Batch:
    """Stop a batch: what is done stays done. Raises Refusal."""
    raise NotImplementedError
