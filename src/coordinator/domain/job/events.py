"""Events of a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeGuard, assert_never
from uuid import UUID

from pydantic import BeforeValidator, Field, StringConstraints

from coordinator.domain.account.events import Total
from coordinator.domain.matching.needs import Constraints
from coordinator.domain.matching.units import CountedUnit
from coordinator.domain.messages import (
    Amount,
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
MAX_METRICS = 32


def _few(metrics: object) -> object:
    # Before its members are looked at: pydantic describes every invalid one.
    if isinstance(metrics, dict) and len(metrics) > MAX_METRICS:
        raise ValueError(f"can have {MAX_METRICS} members at most")
    return metrics


Metrics = Annotated[dict[MetricName, Number | Text], Field(max_length=MAX_METRICS), BeforeValidator(_few)]
Sealed = Annotated[str, StringConstraints(max_length=3000, pattern=r"^[A-Za-z0-9_.-]+$")]
"""A text that only holders of the coordinator's signing key can read; see `crypto.webhooks`."""
Size = Annotated[int, Field(ge=0, lt=2**63)]

JobStateName = Literal["QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELED", "EXPIRED"]
FINAL_STATES: frozenset[str] = frozenset({"COMPLETED", "FAILED", "CANCELED", "EXPIRED"})


class JobEventBase(Event):
    """The fields of every event of a job."""

    job_id: UUID
    client: Name
    """The owner of the job; in every event, so that checking the right to read needs no lookup."""


class JobSubmitted(JobEventBase, topic="job.submitted.v1"):
    service: ServiceId
    service_version: int
    constraints: Constraints
    """Normalised."""
    job_class: str
    priority: Priority
    max_attempts: MaxAttempts
    payload_digest: Digest
    fingerprint: str
    payload_bytes: Size = 0
    """The length of the payload's canonical JSON, which the client's quota counts."""
    timeout_seconds: int
    """The time limit of one attempt."""
    list_price: Decimal
    """The price of one unit if the miner names none, and its limit if the client names none."""
    unit: CountedUnit | None = None
    """The counted unit that the job is billed by; None for GPU seconds."""
    max_units: Decimal
    """The most units that the receipt bills."""
    expires_at: Millis
    callback: Sealed | None = None
    """The URL that is told of the job's end; only holders of the coordinator's signing key can read it."""
    hold: Total | None = None
    """The money that is set aside for the job, in 10⁻⁶ of the unit; None where no accounts are kept."""


class JobStarted(JobEventBase, topic="job.started.v1"):
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    miner_key: PublicKey
    """The key that must sign this attempt's statement."""
    unit_price: Decimal


class JobCompleted(JobEventBase, topic="job.completed.v1"):
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    result_digest: Digest
    result_bytes: Size = 0
    """The length of the result's canonical JSON, which the client's quota counts."""
    metrics: Metrics
    units: Decimal
    price: Amount
    measured_units: Decimal | None = None
    """The units of the whole attempt, if the job's limit cut them; counted ones as the miner signed them, if
    its limit or its result cut them."""
    shown_units: Decimal | None = None
    """The counted units that the result shows, where the registry entry says how."""
    started_at: Millis
    """The begin of the paid time; `completed_at` is its end."""
    completed_at: Millis
    statement: dict[str, Any]
    """See `signed_part`."""


class JobAttemptEnded(JobEventBase, topic="job.attempt_ended.v1"):
    """An attempt ended without a result; the next event says whether the job is queued again or failed."""

    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    outcome: Literal["failed", "lost", "released"]
    error_code: ErrorCode
    error_message: Text
    retryable: bool = True
    """Whether another attempt could succeed, by the word of this miner."""
    metrics: Metrics


class JobRequeued(JobEventBase, topic="job.requeued.v1"):
    attempt: Attempt
    """The attempt that miners may claim now."""


class JobFailed(JobEventBase, topic="job.failed.v1"):
    attempt: Attempt
    error_code: ErrorCode
    error_message: Text


class JobCanceled(JobEventBase, topic="job.canceled.v1"):
    attempt: Attempt
    reason: Text


class JobExpired(JobEventBase, topic="job.expired.v1"):
    attempt: Attempt


STATEMENT_PART = ("started_at_ms", "completed_at_ms", "signature")


def signed_part(statement: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a miner's statement that the log has nowhere else; `statement_of` adds the others."""
    part = {name: statement[name] for name in STATEMENT_PART}
    if "units" in statement:
        part["units"] = statement["units"]
    return part


def statement_of(job: JobSubmitted, completed: JobCompleted) -> dict[str, Any]:
    """The miner's signed statement, whole: all members besides are facts that the decision compared."""
    return {
        **completed.statement,  # first: whatever it says, the facts count
        "version": "1",
        "job_id": str(job.job_id),
        "attempt": completed.attempt,
        "miner_id": completed.miner_id,
        "session_id": completed.session_id,
        "service": job.service,
        "payload_digest": job.payload_digest,
        "result_digest": completed.result_digest,
    }


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
    return isinstance(event, JobEventBase)


def state_after(event: JobEvent) -> JobStateName | None:
    """The state of a job after this event; None between an attempt's end and the next event."""
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
_FINAL_EVENTS: Final[tuple[type[Event], ...]] = (JobCompleted, JobFailed, JobCanceled, JobExpired)


def ends_job(event: Event) -> TypeGuard[FinalEvent]:
    """Whether this event makes a job final."""
    return isinstance(event, _FINAL_EVENTS)


class JobError(NamedTuple):
    """The reason why a final job has no result."""

    code: str
    message: str


def error_of(event: JobFailed | JobCanceled | JobExpired) -> JobError:
    """The error that readers of the job see."""
    match event:
        case JobFailed():
            return JobError(event.error_code, event.error_message)
        case JobCanceled():
            return JobError("CANCELED", event.reason)
        case JobExpired():
            return JobError("EXPIRED", "the job's time to live was over")
        case _:
            assert_never(event)
