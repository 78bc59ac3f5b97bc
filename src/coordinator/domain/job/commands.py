"""Commands about a job, from clients, miners and timers."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StrictBool, StringConstraints

from coordinator.domain.account.events import Micros
from coordinator.domain.job.events import ErrorCode, Metrics
from coordinator.domain.matching.needs import Constraints
from coordinator.domain.messages import (
    Attempt,
    Command,
    IdempotencyKey,
    MaxAttempts,
    MinerId,
    Priority,
    ReceiverUrl,
    Role,
    ServiceId,
    SessionId,
    Text,
    TtlSeconds,
)

OfferToken = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$")]

DEFAULT_TTL_SECONDS = 900
DEFAULT_MAX_ATTEMPTS = 3


class JobSubmit(Command, topic="job.submit", senders={Role.CLIENT, Role.ADMIN}):
    """Ask for one unit of work. A repeat with the same idempotency key returns the first answer."""

    service: ServiceId
    payload: dict[str, Any]
    constraints: Constraints = Constraints()
    ttl_seconds: TtlSeconds = DEFAULT_TTL_SECONDS
    priority: Priority = 0
    max_attempts: MaxAttempts = DEFAULT_MAX_ATTEMPTS
    idempotency_key: IdempotencyKey | None = None
    callback_url: ReceiverUrl | None = None
    """A public https URL that is told of the job's end, as a webhook is."""
    budget: Micros | None = None
    """The most that the whole job may cost, in 10⁻⁶ of the unit of money. The default is the price limit of a
    unit for the most units that the job is billed for. Counts only where the coordinator keeps accounts."""
    when_unmatched: Literal["wait", "refuse"] = "wait"
    """`refuse`: with NO_ELIGIBLE_MINER if no live miner could run the job, busy or not. Not a part of the
    request that an idempotency key stands for: the job is the same."""


class JobSubmitAgain(Command, topic="job.submit_again", senders={Role.CLIENT, Role.OPERATOR, Role.ADMIN}):
    """Ask for the work of a final job once more, in a new job of the same client: the same payload, needs,
    time to live, priority and attempts. The client's quota counts it, whoever asks."""

    job_id: UUID
    """The final job."""
    idempotency_key: IdempotencyKey | None = None
    """A repeat with the same key by the same sender returns the first answer."""


class JobCancel(Command, topic="job.cancel", senders={Role.CLIENT, Role.OPERATOR, Role.ADMIN}):
    """Stop a job that is queued or running."""

    job_id: UUID
    reason: Text = ""


class AttemptCommand(Command):
    """A miner's report about an attempt."""

    job_id: UUID
    attempt: Attempt
    miner_id: MinerId
    session_id: SessionId
    token: OfferToken | None = None
    """The token of the offer. A claim needs it, also one that comes with a result or a failure; after the
    claim the lease is enough."""


class JobStart(AttemptCommand, topic="job.start", senders={Role.MINER}):
    """Claim an offered attempt; an accepted claim gives this session the lease."""

    sealed: StrictBool = False
    """Whether a private payload in the answer is sealed to the miner's registered key."""


class JobComplete(AttemptCommand, topic="job.complete", senders={Role.MINER}):
    """Hand in a result with the miner's signed statement; also claims an unclaimed attempt."""

    result: dict[str, Any]
    result_salt: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,64}$")]
    statement: dict[str, Any]
    metrics: Metrics = Field(default_factory=dict)


class JobFail(AttemptCommand, topic="job.fail", senders={Role.MINER}):
    """Report that an attempt failed. `retryable`: another attempt could succeed; a miner's "no" ends the job
    once a second miner says the same."""

    error_code: ErrorCode
    error_message: Text = ""
    retryable: StrictBool = True
    metrics: Metrics = Field(default_factory=dict)


class JobRelease(AttemptCommand, topic="job.release", senders={Role.MINER}):
    """Hand an attempt back unfinished, because the miner stops; it does not count against `max_attempts`."""


class JobLose(Command, topic="job.lose", senders={Role.SYSTEM}):
    """End an attempt whose lease ran out (sent by the timers), or that is too slow (by the dispatcher)."""

    job_id: UUID
    attempt: Attempt
    reason: Text
    error_code: Literal["LEASE_LOST", "TOO_SLOW"] = "LEASE_LOST"
    """TOO_SLOW: far beyond the time that the service usually takes, at a miner that has not proven itself."""


class JobExpire(Command, topic="job.expire", senders={Role.SYSTEM}):
    """End a job whose time to live is over (sent by the timers)."""

    job_id: UUID


JobCommand = (
    JobSubmit
    | JobSubmitAgain
    | JobCancel
    | JobStart
    | JobComplete
    | JobFail
    | JobRelease
    | JobLose
    | JobExpire
)
"""Every command about a job."""
