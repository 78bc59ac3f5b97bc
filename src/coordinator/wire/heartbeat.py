"""Heartbeats, from miners to coordinators."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from coordinator.domain.matching.gpus import Label
from coordinator.domain.messages import Attempt, MinerId, SessionId

MAX_INFLIGHT: Final = 1024


class HeldAttempt(BaseModel):
    """An attempt that a miner is working on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    job_id: UUID
    attempt: Attempt


class GpuMemory(BaseModel):
    """The free memory of one GPU at that moment, in MiB. It is information, and decides nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Label
    free_mb: Annotated[int, Field(strict=True, ge=0, le=10_000_000)]


class Heartbeat(BaseModel):
    """A miner's sign of life: extends its session, and the leases of the attempts it works on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    miner_id: MinerId
    session_id: SessionId
    inflight: Annotated[tuple[HeldAttempt, ...], Field(max_length=MAX_INFLIGHT)] = ()
    status: Annotated[str, Field(max_length=40)] = "ok"
    gpus: Annotated[tuple[GpuMemory, ...], Field(max_length=64)] = ()
    """Of the GPUs whose free memory is known, as it was read last."""
    metadata: Annotated[dict[str, Any], Field(max_length=32)] = Field(default_factory=dict)
