"""Job: one unit of work that a client asked for.

    QUEUED --start--> RUNNING --complete--> COMPLETED
      ^                  |
      +-- lost, failed, released (the next attempt)
    QUEUED or RUNNING --> FAILED, CANCELED, EXPIRED

The attempt (1, 2, 3 …) is the fence: every lease, result and receipt carries it, and a stale one changes
nothing. This module has what there is to say (commands, events) and to be (states); `job_decisions` has the
rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StrictBool, StringConstraints

from coordinator.domain.matching import Constraints
from coordinator.domain.messages import (
    Attempt,
    Command,
    Decimal,
    Digest,
    Event,
    MaxAttempts,
    Millis,
    MinerId,
    Name,
    Priority,
    PublicKey,
    Role,
    ServiceId,
    SessionId,
    Text,
    TtlSeconds,
)

DEFAULT_TTL_SECONDS = 900
DEFAULT_MAX_ATTEMPTS = 3
MAX_FREE_RELEASES = 10
"""From then on handing back counts as an attempt: no miner keeps a job for ever by claiming and releasing."""

IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
ErrorCode = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{1,63}$")]
MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Number = Annotated[int, Field(strict=True, gt=-(2**63), lt=2**63)]
Metrics = Annotated[dict[MetricName, Number | Text], Field(max_length=32)]


# --- commands ----------------------------------------------------------------------------------------------
class JobSubmit(Command, topic="job.submit", senders={Role.CLIENT, Role.ADMIN}):
    """Ask for one unit of work. With an idempotency key a repeat returns the first answer."""

    service: ServiceId
    payload: dict[str, Any]
    constraints: Constraints = Constraints()
    ttl_seconds: TtlSeconds = DEFAULT_TTL_SECONDS
    priority: Priority = 0
    max_attempts: MaxAttempts = DEFAULT_MAX_ATTEMPTS
    idempotency_key: IdempotencyKey | None = None


class JobCancel(Command, topic="job.cancel", senders={Role.CLIENT, Role.ADMIN}):
    """Stop a job that is queued or running."""

    job_id: UUID
    reason: Text = ""


class AttemptCommand(Command):
    """What a miner says of an attempt: which job, which attempt, who says it."""

    job_id: UUID
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId


class JobStart(AttemptCommand, topic="job.start", senders={Role.MINER}):
    """Claim an offered attempt: accepted means that this session holds the lease."""


class JobComplete(AttemptCommand, topic="job.complete", senders={Role.MINER}):
    """Hand in a result with the miner's signed statement; claims too where no claim was made."""

    result: dict[str, Any]
    result_salt: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,64}$")]
    statement: dict[str, Any]
    metrics: Metrics = Field(default_factory=dict)


class JobFail(AttemptCommand, topic="job.fail", senders={Role.MINER}):
    """Report that an attempt failed; `retryable` says whether another attempt could succeed."""

    error_code: ErrorCode
    error_message: Text = ""
    retryable: StrictBool = True
    metrics: Metrics = Field(default_factory=dict)


class JobRelease(AttemptCommand, topic="job.release", senders={Role.MINER}):
    """Hand an attempt back unfinished (a miner that stops); it does not count against `max_attempts`."""


class JobLose(Command, topic="job.lose", senders={Role.SYSTEM}):
    """The lease of an attempt ran out (timers)."""

    job_id: UUID
    attempt: Attempt
    reason: Text


class JobExpire(Command, topic="job.expire", senders={Role.SYSTEM}):
    """The job's time to live is over (timers)."""

    job_id: UUID


# --- events ------------------------------------------------------------------------------------------------
class JobEvent(Event):
    job_id: UUID
    client: Name
    """Whose job it is; in every event, so that a client's right to read needs no lookup."""


class JobSubmitted(JobEvent, topic="job.submitted.v1"):
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


class JobStarted(JobEvent, topic="job.started.v1"):
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    miner_key: PublicKey
    """The key that must sign this attempt's statement."""
    unit_price: Decimal


class JobCompleted(JobEvent, topic="job.completed.v1"):
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    result_digest: Digest
    metrics: Metrics
    receipt: dict[str, Any]


class JobAttemptEnded(JobEvent, topic="job.attempt_ended.v1"):
    """An attempt ended without a result; what follows (queued again, failed) is the next event."""

    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    outcome: Literal["failed", "lost", "released"]
    error_code: ErrorCode
    error_message: Text
    metrics: Metrics


class JobRequeued(JobEvent, topic="job.requeued.v1"):
    attempt: Attempt
    """The attempt that is now for the taking."""


class JobFailed(JobEvent, topic="job.failed.v1"):
    attempt: Attempt
    error_code: ErrorCode
    error_message: Text


class JobCanceled(JobEvent, topic="job.canceled.v1"):
    attempt: Attempt
    reason: Text


class JobExpired(JobEvent, topic="job.expired.v1"):
    attempt: Attempt


# --- states ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that is over, kept so that a repeated report of it gets the first answer."""

    attempt: int
    miner_id: str
    session_id: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Queued:
    job: JobSubmitted
    attempt: int
    queued_at: Millis
    charged: int = 0
    """Attempts that count against `max_attempts`."""
    ended: tuple[EndedAttempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Running:
    job: JobSubmitted
    started: JobStarted
    queued_at: Millis
    charged: int
    ended: tuple[EndedAttempt, ...]

    @property
    def attempt(self) -> int:
        return self.started.attempt


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """Between an attempt's end and the event that says what follows; never seen outside a decision."""

    job: JobSubmitted
    attempt: int
    charged: int
    ended: tuple[EndedAttempt, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    job: JobSubmitted
    completed: JobCompleted
    ended: tuple[EndedAttempt, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    job: JobSubmitted
    failed: JobFailed
    ended: tuple[EndedAttempt, ...]


@dataclass(frozen=True, slots=True)
class Canceled:
    job: JobSubmitted
    ended: tuple[EndedAttempt, ...]


@dataclass(frozen=True, slots=True)
class Expired:
    job: JobSubmitted
    ended: tuple[EndedAttempt, ...]


JobState = Queued | Running | AttemptEnded | Completed | Failed | Canceled | Expired | None
STATE_NAMES: dict[type, str] = {
    Queued: "QUEUED",
    Running: "RUNNING",
    Completed: "COMPLETED",
    Failed: "FAILED",
    Canceled: "CANCELED",
    Expired: "EXPIRED",
}
FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELED", "EXPIRED"})


_FINAL = (Completed, Failed, Canceled, Expired)


def is_final(state: object) -> bool:
    """Whether this is the state of a job that is over."""
    return isinstance(state, _FINAL)


initial: JobState = None


def evolve(state: JobState, event: Event) -> JobState:
    """The state after one event. Total: an event that is in the log is never refused."""
    match state, event:
        case None, JobSubmitted():
            return Queued(event, attempt=1, queued_at=event.at)
        case Queued(), JobStarted():
            return Running(state.job, event, state.queued_at, state.charged + 1, state.ended)
        case Running(), JobCompleted():
            return Completed(state.job, event, state.ended)
        case Running(), JobAttemptEnded():
            free = event.outcome == "released" and _releases(state) < MAX_FREE_RELEASES
            charged = state.charged - free
            over = EndedAttempt(event.attempt, event.miner_id, event.session_id, event.outcome)
            return AttemptEnded(state.job, event.attempt, charged, (*state.ended, over)[-16:])
        case AttemptEnded(), JobRequeued():
            return Queued(state.job, event.attempt, event.at, state.charged, state.ended)
        case AttemptEnded(), JobFailed():
            return Failed(state.job, event, state.ended)
        case ((Queued() | Running()), JobCanceled()):
            return Canceled(state.job, state.ended)
        case ((Queued() | Running()), JobExpired()):
            return Expired(state.job, state.ended)
    raise ValueError(f"{event.topic} can't follow {type(state).__name__}")


def _releases(state: Running) -> int:
    return sum(ended.outcome == "released" for ended in state.ended)


def answer(state: JobState, command: Command) -> dict[str, Any]:
    """What the sender of an accepted (or repeated) command is told, from the state after it."""
    assert state is not None
    told: dict[str, Any] = {"job_id": str(state.job.job_id), "state": STATE_NAMES[type(state)]}
    match command, state:
        case JobSubmit(), _:
            told["expires_at"] = state.job.expires_at
        case JobComplete(), Completed():
            told["attempt"] = state.completed.attempt
            told["receipt"] = state.completed.receipt
        case ((JobStart() | JobFail() | JobRelease()), _):
            told["attempt"] = command.attempt
    return told
