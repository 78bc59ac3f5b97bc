"""Quotas: limits of a name, and what it uses."""

from __future__ import annotations

from coordinator.domain.quota import OwnLimits
from coordinator.edge.models.base import CommandAnswer, View


class QuotaAnswer(CommandAnswer):
    name: str
    own_limits: OwnLimits
    """The limits of this name alone; null where the limit of the settings applies."""


class LimitsView(View):
    """The limits in force; null for none."""

    queued_jobs: int | None
    stored_bytes: int | None
    commands_per_minute: int | None
    miners: int | None
    profiles: int | None
    max_priority: int


class UsageView(View):
    """What a name uses, as far as the answering process knows: late by a few seconds at most."""

    queued_jobs: int
    running_jobs: int
    stored_bytes: int
    """Payloads, results and uploaded files; a file counts at least 4 KiB."""
    payload_bytes: int
    blob_bytes: int
    miners: int
    profiles: int


class QuotaView(View):
    """The limits of a name in force, its own ones among them, and what it uses."""

    name: str
    limits: LimitsView
    own_limits: OwnLimits
    used: UsageView


class QuotaPage(View):
    items: list[QuotaView]
    next_cursor: str | None
