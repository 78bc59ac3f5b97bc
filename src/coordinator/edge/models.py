"""The shapes of what the HTTP edge answers; the command line prints them with `--json`.

Moments are RFC 3339 text in UTC with milliseconds, but for offers, which are the same over AMQP and HTTP.
A newer coordinator may add members; readers skip what they do not know.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from coordinator.application.intents import describe
from coordinator.application.ports import HeldAttempt, Offer
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.matching import Capabilities, Constraints
from coordinator.domain.messages import Millis, ServiceId
from coordinator.domain.service import Pricing, Requirements, ServiceSpec

JobState = Literal["QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELED", "EXPIRED"]
MinerState = Literal["ONLINE", "DRAINING", "OFFLINE"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(millis: Millis) -> datetime:
    """Unix milliseconds as a UTC datetime, exactly."""
    return _EPOCH + timedelta(milliseconds=millis)


def rfc3339(at: datetime) -> str:
    """Such as 2026-01-31T12:00:00.250Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Moment = Annotated[
    datetime,
    BeforeValidator(lambda value: moment(value) if isinstance(value, int) else value),
    PlainSerializer(rfc3339),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.250Z"]}),
]


class View(BaseModel):
    """Something that is read."""

    model_config = ConfigDict(frozen=True)


class Answer(BaseModel):
    """What an accepted command is answered: its effect is in the log at `position`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    status: Literal["accepted"]
    position: int


# --- problems ----------------------------------------------------------------------------------------------
class ProblemDetails(View):
    """RFC 9457, with our code. `code` never changes its meaning; `detail` is for people."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None


# --- jobs --------------------------------------------------------------------------------------------------
class JobError(View):
    code: str
    message: str


class JobSubmitAnswer(Answer):
    """A job that was submitted; its result or error, where the request waited for the end."""

    job_id: UUID
    state: JobState
    expires_at: Moment
    result: dict[str, Any] | None = None
    error: JobError | None = None


class JobCancelAnswer(Answer):
    job_id: UUID
    state: JobState


class JobView(View):
    """One job."""

    job_id: UUID
    service: str
    service_version: int
    state: JobState
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
    position: int


class JobPage(View):
    items: list[JobView]
    next_cursor: str | None


class JobResult(View):
    """What a completed job gave. `result_digest` is SHA-256 over the salt (hex) and the canonical result."""

    job_id: UUID
    state: Literal["COMPLETED"]
    attempt: int
    miner_id: str
    finished_at: Moment
    result_digest: str
    result_salt: str
    result: dict[str, Any]


class Receipt(View):
    """A signed receipt, AITBC receipt 1.0; see the page on auditing for how to verify one."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    receipt_id: str
    job_id: str


class ReceiptPage(View):
    items: list[Receipt]
    next_cursor: str | None


# --- miners ------------------------------------------------------------------------------------------------
class MinerRegisterAnswer(Answer):
    """A session has begun. `session_token` is the session id under the name that AITBC's miners look for."""

    miner_id: str
    session_id: str
    session_token: str
    profile: str
    state: MinerState
    queue: str
    control_queue: str
    heartbeat_interval_seconds: float
    heartbeat_timeout_seconds: float


class HeartbeatAnswer(Answer):
    """Stop the attempts in `cancel`: they are no longer yours."""

    state: MinerState
    cancel: list[HeldAttempt] = Field(default_factory=list)


class MinerAnswer(Answer):
    miner_id: str
    session_id: str
    profile: str
    state: MinerState


class PolledOffer(Offer):
    """An offer that is claimed already: run it, send its result. `expires_at` is in Unix milliseconds."""

    position: int


class AttemptAnswer(Answer):
    job_id: UUID
    state: JobState
    attempt: int


class ProgressAnswer(Answer):
    """A report was passed on. `position`: what this process knows of the log; a report is not in it."""

    whole: bool
    """Send the whole text so far, with `whole`: its beginning is not known here."""


class ResultAnswer(AttemptAnswer):
    receipt: Receipt


class MinerView(View):
    """One miner."""

    miner_id: str
    session_id: str
    state: MinerState
    profile: str
    capabilities: Capabilities
    concurrency: int
    public_key: str
    registered_at: Moment
    changed_at: Moment
    position: int


class MinerPage(View):
    items: list[MinerView]
    next_cursor: str | None


# --- keys --------------------------------------------------------------------------------------------------
class KeyAnswer(Answer):
    key_id: UUID
    name: str
    role: str
    state: Literal["ACTIVE", "REVOKED"]
    generation: int
    expires_at: Moment | None
    signed: bool


class NewSecretAnswer(KeyAnswer):
    """`key` is shown this once: it is stored nowhere, and a repeat does not show it again."""

    key: str | None = Field(None, description="`name:secret`, as `X-Api-Key` takes it.")
    hmac_secret: str | None = Field(None, description="What requests are signed with, if they have to be.")


class KeyView(View):
    """An API key that was made at run time; `old_until` is when the secrets before its newest end."""

    key_id: UUID
    name: str
    role: str
    label: str
    state: Literal["ACTIVE", "EXPIRED", "REVOKED"]
    signed: bool
    generation: int
    created_at: Moment
    created_by: str
    expires_at: Moment | None
    rotated_at: Moment | None
    old_until: Moment | None
    revoked_at: Moment | None
    revoked_by: str | None
    reason: str | None
    position: int


class KeyPage(View):
    items: list[KeyView]
    next_cursor: str | None


# --- blobs, services, health -------------------------------------------------------------------------------
class BlobView(View):
    """A stored file; `blob` is how a payload or result names it."""

    blob: str
    sha256: str
    size: int


class ServiceSummary(View):
    id: str
    name: str
    category: str
    description: str
    pricing: Pricing
    tags: tuple[str, ...]
    aliases: tuple[str, ...]
    version: int
    retired: bool


class ServiceAnswer(Answer):
    """A registry entry was changed."""

    service: str
    version: int
    retired: bool


class ServicePage(View):
    items: list[ServiceSummary]
    next_cursor: str | None


class ServiceView(ServiceSpec):
    """A registry entry as it is now."""

    version: int
    retired: bool


class ServiceSchema(View):
    """JSON Schema 2020-12 of what a service takes and gives."""

    service: str
    version: int
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


class ServiceRequirements(View):
    """What a miner needs for a service, at least and better; and how a job may be bounded."""

    service: str
    version: int
    requirements: Requirements
    capabilities: tuple[str, ...]
    max_concurrent: int
    timeout_seconds: int


class ServicePricing(View):
    """The list price; a miner may ask for less or more."""

    service: str
    version: int
    pricing: Pricing


class ServiceVersion(View):
    version: int
    change: Literal["registered", "revised", "retired"]
    at: Moment
    by: str
    position: int


class ServiceVersionPage(View):
    items: list[ServiceVersion]
    next_cursor: str | None


class CategoryView(View):
    """A kind of service, and how many of them take jobs."""

    id: str
    services: int


class CategoryPage(View):
    items: list[CategoryView]
    next_cursor: str | None


class ValidateAsk(BaseModel):
    """A payload, and the service that it is for (an id or an alias)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: ServiceId
    payload: dict[str, Any]

    @classmethod
    def of(cls, fields: dict[str, Any]) -> ValidateAsk:
        """Raises Refusal."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise Refusal(Code.INVALID_PAYLOAD, describe(error)) from None


class FaultView(View):
    """One thing that is wrong with a payload: where, by which keyword of the schema, and what; no values."""

    place: str
    keyword: str
    message: str


class ValidateAnswer(View):
    """Whether a service would take this payload as it is now."""

    valid: bool
    service: str
    version: int
    faults: list[FaultView]


class FollowerView(View):
    status: str
    position: int


class StatsView(View):
    """Figures of this process and of the tables. Counters begin with the process."""

    mode: str
    position: int
    broker_up: bool
    jobs_queued: int | None
    oldest_queued_at: Moment | None
    jobs_running: int | None
    offers: int | None
    slots: int | None
    busy_slots: int | None
    miners: dict[str, int]
    services: int
    commands: int
    refusals: dict[str, int]
    events: dict[str, int]
    followers: dict[str, FollowerView]


class HealthView(View):
    """How the coordinator is; `reasons` says what is wrong."""

    model_config = ConfigDict(frozen=True, extra="allow")

    status: Literal["ok", "failing"]
    reasons: list[str]
