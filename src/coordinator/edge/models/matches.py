"""Matches: why a job waits, and why a miner has no work. A sentence for people, and reasons for programs."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from coordinator.domain.job import JobStateName
from coordinator.domain.matching.needs import ConstraintName, Constraints
from coordinator.domain.matching.reasons import ReasonCode
from coordinator.edge.models.base import Moment, View
from coordinator.edge.models.jobs import JobError
from coordinator.edge.models.miners import MinerState

Change = str | int | list[str] | None


class ReasonView(View):
    """One reason. `counts` are numbers of miners unless their names say otherwise."""

    code: ReasonCode
    text: str
    constraint: ConstraintName | None
    counts: dict[str, int]


class RelaxationView(View):
    """The smallest change of one constraint that finds miners: `miners` would run the job with `to`.

    `to` null: without the constraint.
    """

    constraint: ConstraintName
    asked: Change
    to: Change
    miners: int
    text: str


class UnmetView(View):
    constraint: ConstraintName
    text: str


class ComparedProfile(View):
    """One profile of live miners against the job. For admins."""

    profile: str
    principal: str
    online: int
    draining: int
    slots: int
    busy_slots: int
    quarantine: Literal["", "probes", "by hand"]
    unmet: list[UnmetView]


class JobMatch(View):
    """Why a job waits; of another job, how it is or how it ended. The first of `reasons` is decisive."""

    job_id: UUID
    state: JobStateName
    sentence: str
    service: str
    constraints: Constraints
    reasons: list[ReasonView]
    relaxations: list[RelaxationView]
    """Those that keep the constraint come first, by the miners that they find. Empty if a miner can be found
    as it is."""
    models: dict[str, int]
    """If the job asks for models: those of the miners that run its service, with their number."""
    miners_online: int
    miners_running_service: int
    miners_found: int
    """The miners that could run it, busy or not, without those that drain or are barred."""
    attempt: int
    since: Moment
    """When it was queued, or began to run, or ended."""
    expires_at: Moment
    error: JobError | None
    miner_id: str | None
    """The miner that runs it, for admins only."""
    offered_to: str | None
    """The profile that has its offer, for admins only; known to the process that makes the offers."""
    profiles: list[ComparedProfile]
    """For admins only."""


class ImprovementView(View):
    """The smallest change of one capability that brings jobs: `jobs` more would fit with `to`."""

    constraint: ConstraintName
    to: Change
    jobs: int
    text: str


class MinerMatch(View):
    """Why a miner has no work, or no more of it. The first of `reasons` is decisive.

    Other people's models, regions and services are named to admins only.
    """

    miner_id: str
    state: MinerState
    sentence: str
    reasons: list[ReasonView]
    improvements: list[ImprovementView]
    slots: int
    busy_slots: int
    queued_jobs: int
    queued_jobs_of_its_services: int
    queued_jobs_fitting: int
