"""What happened to a job."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, assert_never
from uuid import UUID

from pydantic import Field, StringConstraints

from coordinator.domain.matching import Constraints
from coordinator.domain.messages import (
    Attempt,
    Decimal,
    Digest,
    Event,
    MaxAttempts,
    Millis,
    MinerId,
    Name,
    Priority,
    PublicKey,
    ServiceId,
    SessionId,
    Text,
)

ErrorCode = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")]
MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Number = Annotated[int, Field(strict=True, gt=-(2**63), lt=2**63)]
Metrics = Annotated[dict[MetricName, Number | Text], Field(max_length=32)]

JobStateName = Literal["QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELED", "EXPIRED"]
FINAL_STATES: frozenset[str] = frozenset({"COMPLETED", "FAILED", "CANCELED", "EXPIRED"})


class OfJob(Event):
    """What all events of a job have."""

    job_id: UUID
    client: Name
    """Whose job it is; in every event, so that a client's right to read needs no lookup."""


class JobSubmitted(OfJob, topic="job.submitted.v1"):
    service: ServiceId
    service_version: int
    constraints: Constraints
    """Normalised."""
    job_class: str
    priority: Priority
    max_attempts: MaxAttempts
    payload_digest: Digest
    fingerprint: str
    timeout_seconds: int
    """How long the service lets one attempt run."""
    list_price: Decimal
    """What one unit costs where the miner names no price of its own."""
    expires_at: Millis


class JobStarted(OfJob, topic="job.started.v1"):
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    miner_key: PublicKey
    """The key that must sign this attempt's statement."""
    unit_price: Decimal


class JobCompleted(OfJob, topic="job.completed.v1"):
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    result_digest: Digest
    metrics: Metrics
    receipt: dict[str, Any]


class JobAttemptEnded(OfJob, topic="job.attempt_ended.v1"):
    """An attempt ended without a result; what follows (queued again, failed) is the next event."""

    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    outcome: Literal["failed", "lost", "released"]
    error_code: ErrorCode
    error_message: Text
    metrics: Metrics


class JobRequeued(OfJob, topic="job.requeued.v1"):
    attempt: Attempt
    """The attempt that is now for the taking."""


class JobFailed(OfJob, topic="job.failed.v1"):
    attempt: Attempt
    error_code: ErrorCode
    error_message: Text


class JobCanceled(OfJob, topic="job.canceled.v1"):
    attempt: Attempt
    reason: Text


class JobExpired(OfJob, topic="job.expired.v1"):
    attempt: Attempt


JobEvent = (
    JobSubmitted
    | JobStarted
    | JobCompleted
    | JobAttemptEnded
    | JobRequeued
    | JobFailed
    | JobCanceled
    | JobExpired
)
"""Every event of a job."""


def is_job_event(event: Event) -> TypeGuard[JobEvent]:
    """Whether this is an event of a job."""
    return isinstance(event, OfJob)


def state_after(event: JobEvent) -> JobStateName | None:
    """The state that a job is in after this event; None between an attempt's end and what follows."""
    match event:
        case JobSubmitted() | JobRequeued():
            return "QUEUED"
        case JobStarted():
            return "RUNNING"
        case JobCompleted():
            return "COMPLETED"
        case JobFailed():
            return "FAILED"
        case JobCanceled():
            return "CANCELED"
        case JobExpired():
            return "EXPIRED"
        case JobAttemptEnded():
            return None
        case _:
            assert_never(event)


FinalEvent = JobCompleted | JobFailed | JobCanceled | JobExpired


def ends_job(event: Event) -> TypeGuard[FinalEvent]:
    """Whether a job is over with this event."""
    return is_job_event(event) and state_after(event) in FINAL_STATES


class JobError(NamedTuple):
    """Why a job that is over has no result."""

    code: str
    message: str


def error_of(event: JobFailed | JobCanceled | JobExpired) -> JobError:
    """What readers of the job are told of an end without a result."""
    match event:
        case JobFailed():
            return JobError(event.error_code, event.error_message)
        case JobCanceled():
            return JobError("CANCELED", event.reason)
        case JobExpired():
            return JobError("EXPIRED", "its time to live was over")
        case _:
            assert_never(event)
