"""Running attempts, and the hints to the miners that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.dispatch.standing import Standing


class RunningAttempt(NamedTuple):
    """A job that a miner holds."""

    work: QueuedWork
    miner_id: str
    session_id: str
    standing: Standing
    """Of the miner's principal for the service."""
    since: float
    """When this process saw it start, in monotonic seconds."""
    started_at: int | None = None
    """By the event, in Unix milliseconds; None if this process did not see it start."""


class Hint(NamedTuple):
    miner_id: str
    body: Mapping[str, Any]
