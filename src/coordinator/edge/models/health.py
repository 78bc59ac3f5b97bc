"""The coordinator's health and statistics."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from coordinator.edge.models.base import Moment, View


class FollowerView(View):
    status: str
    position: int


class StatsView(View):
    """Statistics of this process and of the tables. Counters begin with the process."""

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


class PartView(View):
    """Whether a part worked lately, and why not."""

    ok: bool
    reason: str | None = None


class HealthView(View):
    """The coordinator's health; `reasons` lists its problems."""

    model_config = ConfigDict(frozen=True, extra="allow")

    status: Literal["ok", "failing"]
    reasons: list[str]
    warnings: list[str] = Field(default_factory=list)
    """Problems that keep no request out."""
    parts: dict[str, PartView] = Field(default_factory=dict)
