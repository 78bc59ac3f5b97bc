"""Miners: their sessions, polled offers, and the answers to their reports."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field, model_validator

from coordinator.domain.job import JobStateName
from coordinator.domain.matching.needs import Capabilities
from coordinator.edge.models.base import ArrayAnswer, CommandAnswer, Moment, View
from coordinator.edge.models.jobs import Receipt
from coordinator.wire.heartbeat import GpuMemory, HeldAttempt
from coordinator.wire.offers import Offer

MinerState = Literal["ONLINE", "DRAINING", "OFFLINE"]


class MinerRegisterAnswer(CommandAnswer):
    """A session has begun. `session_token` is the session id under the name that AITBC's miners expect."""

    miner_id: str
    session_id: str
    session_token: str
    profile: str
    state: MinerState
    queue: str
    control_queue: str
    heartbeat_interval_seconds: float
    heartbeat_timeout_seconds: float

    @model_validator(mode="before")
    @classmethod
    def _session_by_both_names(cls, answer: dict[str, Any]) -> dict[str, Any]:
        return {"session_token": answer.get("session_id"), **answer}


class HeartbeatAnswer(CommandAnswer):
    """Stop the attempts in `cancel`: they are no longer yours."""

    state: MinerState
    cancel: list[HeldAttempt] = Field(default_factory=list)


class MinerAnswer(CommandAnswer):
    miner_id: str
    session_id: str
    profile: str
    state: MinerState


class PolledOffer(Offer):
    """An offer that is already claimed: run it, send its result. `expires_at` is in Unix milliseconds."""

    position: int


class PolledOffers(View):
    """Offers that are claimed already, in the answer to a poll with `max_offers`."""

    offers: list[PolledOffer]
    position: int


class PolledTurn(ArrayAnswer):
    """The answers to a poll's results, and offers that are claimed already."""

    offers: list[PolledOffer]


class AttemptAnswer(CommandAnswer):
    job_id: UUID
    state: JobStateName
    attempt: int


class StartAnswer(AttemptAnswer):
    """Of a private job it has the payload, too: as in an offer, or sealed if that was asked for."""

    payload: dict[str, Any] | None = None
    payload_blob: str | None = None
    payload_salt: str | None = None
    sealed: dict[str, str] | None = None


class ProgressAnswer(CommandAnswer):
    """The report was passed on. `position` is the last position known here; reports are not in the log."""

    whole: bool
    """Send the whole text so far, with `whole`: its beginning is unknown here."""


class ResultAnswer(AttemptAnswer):
    """A completed attempt, with the signed promise of its receipt."""

    promise: Receipt


class StandingView(View):
    """What a principal's miners did of late for one service, and what follows: see `reason` and `advice`."""

    service: str | None
    """None: every service, which only an admin's quarantine is about."""
    state: Literal["NEWCOMER", "TRUSTED", "DOUBTED", "QUARANTINED"]
    slots: int
    """The most offers and running jobs at a time, of all miners of this principal."""
    completed: int
    failed: int
    """Failures of jobs that another principal then completed."""
    lost: int
    too_slow: int
    released: int
    unclaimed: int
    """Offers that were left lying while a slot was free."""
    reason: str
    advice: str
    """The next step up, and the way there."""


class StandingAnswer(CommandAnswer):
    principal: str
    service: str | None
    quarantined: bool


class GpuMemoryView(View):
    """The free memory of a miner's GPUs, as its heartbeat said at that time."""

    at: Moment
    gpus: list[GpuMemory]


class MinerView(View):
    """One miner. `standing` is that of its principal, by service; a newcomer has none yet."""

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
    standing: list[StandingView] = Field(default_factory=list)
    gpu_memory: GpuMemoryView | None = None
    """Of one miner that is shown alone, while it is online and says it."""


class MinerPage(View):
    items: list[MinerView]
    next_cursor: str | None
