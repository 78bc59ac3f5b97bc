"""The rows that the edge reads, typed: one class for each read model, with its view in the API.

A class names every column of its table: any difference fails the first read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, NamedTuple
from uuid import UUID

from coordinator.domain.content import ContentKind
from coordinator.domain.job import FINAL_STATES, JobStateName
from coordinator.domain.matching.needs import Capabilities
from coordinator.domain.messages import principal_of
from coordinator.edge.models.jobs import JobError, JobView
from coordinator.edge.models.keys import KeyView
from coordinator.edge.models.miners import MinerState, MinerView, StandingView


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job. Moments are Unix milliseconds."""

    job_id: str
    client: str
    service: str
    service_version: int
    state: JobStateName
    constraints_json: str
    priority: int
    attempt: int
    max_attempts: int
    miner_id: str | None
    requested_at: int
    started_at: int | None
    finished_at: int | None
    expires_at: int
    error_code: str | None
    error_message: str | None
    hold: int | None
    """The amount that was set aside for it, in 10⁻⁶ of the unit; None without accounts."""
    payload_digest: str
    result_digest: str | None
    units: str | None
    """Billed units, and their price: both None unless it is completed."""
    price: str | None
    position: int
    payload_erased: int | None
    """The position of the event that says that the payload was erased."""
    result_erased: int | None

    @property
    def id(self) -> UUID:
        return UUID(self.job_id)

    @property
    def is_final(self) -> bool:
        """Whether the job's state is final."""
        return self.state in FINAL_STATES

    @property
    def is_completed(self) -> bool:
        """Whether the job is final and has a result."""
        return self.state == "COMPLETED"

    @property
    def error(self) -> JobError | None:
        """Why the job has no result; None if it has one, or may still get one."""
        if not self.is_final or self.is_completed:
            return None
        return JobError(code=self.error_code or self.state, message=self.error_message or "")

    def view(self) -> JobView:
        """The job as the API shows it."""
        shown = {name: getattr(self, name) for name in _SHOWN_AS_THEY_ARE}
        return JobView.model_validate(
            {
                **shown,
                "assigned_miner_id": self.miner_id,
                "constraints": json.loads(self.constraints_json),
                "error": self.error,
            }
        )


_SHOWN_AS_THEY_ARE: Final = tuple(
    name for name in JobView.model_fields if name in {field.name for field in fields(JobRow)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasableRow:
    """A final job, and what of it was erased. Moments are Unix milliseconds."""

    job_id: str
    requested_at: int
    result_digest: str | None
    payload_erased: int | None
    result_erased: int | None

    def left(self, kinds: Sequence[ContentKind]) -> list[ContentKind]:
        """Those of these kinds that the job has and that are not erased."""
        there: dict[ContentKind, bool] = {
            "payload": self.payload_erased is None,
            "result": self.result_digest is not None and self.result_erased is None,
        }
        return [kind for kind in kinds if there[kind]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MinerRow:
    """A miner and its newest session. Moments are Unix milliseconds."""

    miner_id: str
    session_id: str
    state: MinerState
    profile: str
    capabilities_json: str
    concurrency: int
    public_key: str
    registered_at: int
    changed_at: int
    position: int

    @property
    def services(self) -> list[str]:
        """The ids of the services that the miner can run."""
        services: list[str] = json.loads(self.capabilities_json)["services"]
        return services

    @property
    def offered(self) -> Capabilities:
        """Its capabilities."""
        return Capabilities.model_validate_json(self.capabilities_json)

    def view(self, standings: Sequence[StandingRow] = (), gpu_memory: str | None = None) -> MinerView:
        """The miner as the API shows it. `standings`: those of several principals."""
        own = [row.view() for row in standings if row.principal == principal_of(self.miner_id)]
        capabilities = json.loads(self.capabilities_json)
        return MinerView.model_validate(
            {
                **asdict(self),
                "capabilities": capabilities,
                "standing": own,
                "gpu_memory": gpu_memory and json.loads(gpu_memory),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingRow:
    """The standing of a principal for a service, as the dispatcher keeps it."""

    principal: str
    service: str
    completed: int
    failed: int
    lost: int
    too_slow: int
    released: int
    unclaimed: int
    slots: int
    streak: int
    quarantine: str
    reason: str

    def view(self) -> StandingView:
        """The standing as the API shows it."""
        if self.quarantine == "by hand":
            state, advice = "QUARANTINED", "an admin has to release it"
        elif self.quarantine:
            state, advice = "QUARANTINED", "gets one probe job at a time; completing one ends the quarantine"
        elif self.streak:
            state, advice = "DOUBTED", "gets fewer jobs, after a pause; each completed job adds a slot"
        elif not self.completed:
            state, advice = "NEWCOMER", "each completed job adds a slot, up to the registered concurrency"
        else:
            state, advice = "TRUSTED", "each completed job adds a slot, up to the registered concurrency"
        shown = {name: value for name, value in asdict(self).items() if name in StandingView.model_fields}
        service = self.service or None
        return StandingView.model_validate({**shown, "service": service, "state": state, "advice": advice})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRow:
    """An entry of the registry."""

    service: str
    version: int
    retired: int
    category: str
    spec_json: str
    position: int

    @property
    def entry(self) -> dict[str, Any]:
        """The entry's spec, with `version` and `retired`."""
        return {**json.loads(self.spec_json), "version": self.version, "retired": bool(self.retired)}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """An API key that was made at run time. Moments are Unix milliseconds."""

    key_id: str
    name: str
    role: str
    label: str
    signed: int
    generation: int
    created_at: int
    created_by: str
    expires_at: int | None
    rotated_at: int | None
    old_until: int | None
    revoked_at: int | None
    revoked_by: str | None
    reason: str | None
    position: int

    def view(self) -> KeyView:
        """The key as the API shows it now."""
        over = self.expires_at is not None and self.expires_at <= time.time_ns() // 1_000_000
        state = "REVOKED" if self.revoked_at is not None else "EXPIRED" if over else "ACTIVE"
        return KeyView.model_validate({**asdict(self), "state": state})


class OfferingRow(NamedTuple):
    """The capabilities of one profile's online miners."""

    profile: str
    capabilities_json: str
    since: int
    """When the first of them registered, in Unix milliseconds."""


class BacklogRow(NamedTuple):
    """The jobs that wait for a miner."""

    queued: int
    oldest_at: int | None
    """When the oldest of them was asked for, in Unix milliseconds."""


class DoubtedRow(NamedTuple):
    """A principal that gets few jobs of a service ("" for every one), or none."""

    principal: str
    service: str
    quarantine: str
    streak: int
    reason: str


class QueuedClassRow(NamedTuple):
    """The queued jobs of one class."""

    job_class: str
    service: str
    constraints_json: str
    queued: int
    oldest: int
    """The place of the oldest in the log."""
