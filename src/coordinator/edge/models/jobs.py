"""Jobs, their results, their receipts and their files."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import ConfigDict

from coordinator.domain.job import JobStateName
from coordinator.domain.matching.needs import Constraints
from coordinator.edge.models.base import CommandAnswer, Moment, View


class JobError(View):
    code: str
    message: str


class JobSubmitAnswer(CommandAnswer):
    """A submitted job; with its result or error if the request waited for its end."""

    job_id: UUID
    state: JobStateName
    expires_at: Moment
    result: dict[str, Any] | None = None
    error: JobError | None = None


class JobCancelAnswer(CommandAnswer):
    job_id: UUID
    state: JobStateName


class JobView(View):
    """One job."""

    job_id: UUID
    service: str
    service_version: int
    state: JobStateName
    client: str
    assigned_miner_id: str | None
    attempt: int
    max_attempts: int
    priority: int
    constraints: Constraints
    requested_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    expires_at: Moment
    error: JobError | None
    payload_digest: str
    result_digest: str | None
    payload_erased: int | None = None
    """The position of the event that says that the payload was erased; null while it is stored."""
    result_erased: int | None = None
    """The same of the result; null, too, if there is none."""
    position: int


class JobPage(View):
    items: list[JobView]
    next_cursor: str | None


class HistoryEntry(View):
    """One event of a job: its facts, and a sentence for people.

    The last ones may say that payload or result was erased; such an event's other jobs are left out.
    """

    position: int
    at: Moment
    type: str
    text: str
    event: dict[str, Any]


class JobHistory(View):
    """Everything that happened to a job, in order."""

    job_id: UUID
    state: JobStateName
    entries: list[HistoryEntry]


class JobResult(View):
    """A completed job's result. `result_digest` is SHA-256 over the salt (hex) and the canonical result."""

    job_id: UUID
    state: Literal["COMPLETED"]
    attempt: int
    miner_id: str
    finished_at: Moment
    result_digest: str
    result_salt: str
    result: dict[str, Any]


class Receipt(View):
    """A signed receipt, AITBC receipt 1.0, or its promise; docs/auditing.md says how to verify them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    receipt_id: str
    job_id: str


class ReceiptPage(View):
    items: list[Receipt]
    next_cursor: str | None


class BlobView(View):
    """A stored file; `blob` is its reference in a payload or result."""

    blob: str
    sha256: str
    size: int
