"""What a search finds: jobs, pages of them, and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from coordinator.application.search.places import JobKey
from coordinator.domain.job import JobStateName
from coordinator.domain.messages import Millis


class Count(NamedTuple):
    """A number that was counted up to a bound."""

    number: int
    more: bool = False
    """Whether there are more, or may be more."""

    def __str__(self) -> str:
        return f"more than {self.number:,}" if self.more else f"{self.number:,}"


class Counted(NamedTuple):
    """The number of matching jobs, and their states."""

    total: Count
    by_state: dict[JobStateName, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundJob:
    """One job of a list. Moments are Unix milliseconds."""

    job_id: str
    client: str
    service: str
    state: JobStateName
    priority: int
    attempt: int
    max_attempts: int
    miner_id: str | None
    """The miner that runs it, or ran it last."""
    requested_at: Millis
    started_at: Millis | None
    finished_at: Millis | None
    expires_at: Millis
    error_code: str | None
    error_message: str | None
    position: int

    @property
    def key(self) -> JobKey:
        """Its place in a list."""
        return JobKey(self.requested_at, self.job_id)


class FoundPage(NamedTuple):
    """Some jobs, newest first."""

    jobs: tuple[FoundJob, ...]
    next_cursor: str | None
    """Goes on after the last job; None at the end. A page may be short, or empty, and still go on: it looks
    at a bounded number of jobs."""
    anchor: str
    """The place before which nothing is new: `newer` counts the jobs after it."""
    looked_to: Millis | None
    """The submit of the last job that was looked at, where the page had to stop looking; else None."""
