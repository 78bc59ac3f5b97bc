"""Erasures of payloads and results."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from coordinator.domain.content import CONTENT_KINDS, ContentKind, Kinds, Reason
from coordinator.domain.messages import Name
from coordinator.edge.models.base import CommandAnswer, View

MAX_AGE_SECONDS = 2**40


class ContentEraseAnswer(CommandAnswer):
    """The erasure is in the log. `erased`: whether it is carried out, too; if not, that follows by itself."""

    jobs: int
    kinds: list[ContentKind]
    erased: bool


class EraseBatch(BaseModel):
    """Which payloads and results to erase: those of all final jobs of a client, or of an age, or of both."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    client: Name | None = None
    """Only this client's jobs."""
    older_than_seconds: Annotated[int, Field(strict=True, ge=0, le=MAX_AGE_SECONDS)] | None = None
    """Only jobs that have been final for so long; 0 for all."""
    kinds: Kinds = CONTENT_KINDS
    reason: Reason
    """For readers of the log, where it stays: it must say nothing of what it erases."""
    dry_run: StrictBool = False
    """Only count."""
    cursor: Annotated[str, Field(max_length=400)] | None = None
    """`next_cursor` of the answer before."""


class EraseBatchAnswer(View):
    """One piece of a batch; a piece looks at a bounded number of jobs."""

    jobs: int
    """Jobs of this piece whose content is erased, or would be."""
    payloads: int
    results: int
    dry_run: bool
    erased: bool
    """Whether the piece is carried out by now; if not, that follows by itself. False for a dry run."""
    position: int
    """Of the last event of this piece, or the one that it was counted at."""
    next_cursor: str | None
    """Send it with the same request for the next piece; null after the last one."""
