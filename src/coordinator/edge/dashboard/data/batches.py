"""Bulk cancel and submit-again on all that match: begun here, carried out by the coordinator."""

from __future__ import annotations

from uuid import UUID

from coordinator.application.batches.batches import BatchKind, BatchPlan, JobBatch, JobBatches
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer

__all__ = ["BatchKind", "BatchPlan", "JobBatch", "cancel", "load", "plan", "recent", "start"]


async def plan(context: EdgeContext, viewer: Viewer, kind: BatchKind, query: str) -> BatchPlan:
    """What a batch would do (a dry run): how many jobs, a sample, and their states. Raises Refusal."""
    return await _batches(context).plan(viewer.principal, kind, query)


async def start(
    context: EdgeContext, viewer: Viewer, kind: BatchKind, query: str, reason: str = ""
) -> JobBatch:
    """Begin a batch. Raises Refusal, also while another batch of the same name is under way."""
    return await _batches(context).begin(viewer.principal, kind, query, reason)


async def load(context: EdgeContext, viewer: Viewer, batch_id: UUID) -> JobBatch:
    """The progress of a batch: of one's own, or of anybody's for viewers. Raises Refusal."""
    return await _batches(context).one(viewer.principal, batch_id)


async def recent(context: EdgeContext, viewer: Viewer) -> tuple[JobBatch, ...]:
    """The newest batches, 20 at most. Raises Refusal."""
    return tuple(await _batches(context).recent(viewer.principal))


async def cancel(context: EdgeContext, viewer: Viewer, batch_id: UUID) -> JobBatch:
    """Stop a batch: what is done stays done. Raises Refusal."""
    return await _batches(context).cancel(viewer.principal, batch_id)


def _batches(context: EdgeContext) -> JobBatches:
    if context.batches is None:
        raise Refusal(Code.UNAVAILABLE, "this process runs no batches; ask another one")
    return context.batches
