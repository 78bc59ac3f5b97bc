"""Bulk cancel and submit-again: the batches and their plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from coordinator.application.search.jobs import Count, FoundJob
from coordinator.domain.job import JobStateName
from coordinator.domain.messages import Millis

BatchKind = Literal["cancel", "retry"]
BatchState = Literal["RUNNING", "DONE", "CANCELED", "STOPPED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What a batch would do: a dry run."""

    kind: BatchKind
    query: str
    """As it will be carried out: with the states that the kind can act on."""
    total: Count
    by_state: dict[JobStateName, int]
    """Of the jobs counted in `total`."""
    sample: tuple[FoundJob, ...]
    """The first jobs, in the order of the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch and its progress."""

    batch_id: UUID
    kind: BatchKind
    query: str
    principal: str
    reason: str
    state: BatchState
    """`STOPPED`: it could not go on; `why` says it."""
    why: str
    total: Count
    """The jobs that matched when it was started."""
    done: int
    """Accepted commands."""
    refused: dict[str, int]
    """Refused commands by code."""
    created_at: Millis
    ended_at: Millis | None
    position: int
    """The position of its last effect."""

    @property
    def seen(self) -> int:
        """The jobs that it came to, accepted or refused."""
        return self.done + sum(self.refused.values())
