"""Searches for jobs, and batches of commands about the jobs that match."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from coordinator.domain.job import JobStateName
from coordinator.domain.messages import Role
from coordinator.edge.models.base import Moment, View


class CountView(View):
    """A number that was counted up to a bound; `more`: there are more, or may be more."""

    number: int
    more: bool


class FoundJobView(View):
    """One job of a search."""

    job_id: UUID
    client: str
    service: str
    state: JobStateName
    priority: int
    attempt: int
    max_attempts: int
    miner_id: str | None
    """The miner that runs it, or ran it last."""
    requested_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    expires_at: Moment
    error_code: str | None
    error_message: str | None
    position: int


class SearchPage(View):
    """A page of the jobs that match, newest first. It may be short, or empty, and still go on."""

    items: list[FoundJobView]
    next_cursor: str | None
    looked_to: Moment | None
    """Where this page had to stop looking: the submit of the last job that it looked at."""


class BatchRequest(BaseModel):
    """A command for each of the jobs that match a query."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["cancel", "retry"]
    query: Annotated[str, Field(max_length=500)]
    """In the query language. Without a state: the jobs that can be canceled, or that failed, expired or were
    canceled."""
    reason: Annotated[str, Field(max_length=1000)] = ""
    """Of canceled jobs: stored with them."""


class BatchPlanView(View):
    """What the batch would do now."""

    kind: Literal["cancel", "retry"]
    query: str
    total: CountView
    by_state: dict[JobStateName, int]
    sample: list[FoundJobView]
    """The first jobs, in the order of the batch."""


class BatchView(View):
    """A batch and its progress."""

    batch_id: UUID
    kind: Literal["cancel", "retry"]
    query: str
    principal: str
    role: Role
    reason: str
    state: Literal["RUNNING", "DONE", "CANCELED", "STOPPED"]
    why: str
    """Of a batch that stopped: why it could not go on."""
    total: CountView
    """The jobs that matched when it was begun."""
    done: int
    """Accepted commands."""
    refused: dict[str, int]
    """Refused commands by code."""
    created_at: Moment
    ended_at: Moment | None
    position: int
    """Of its last effect."""


class BatchCancel(BaseModel):
    """Nothing has to be said."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchList(View):
    """The newest batches."""

    items: list[BatchView]
