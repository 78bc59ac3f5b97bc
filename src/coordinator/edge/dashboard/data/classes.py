"""The page Classes and profiles: what waits, for whom, and what blocks."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from coordinator.application.metrics import OpenOffers
from coordinator.domain.matching.gpus import Gpu
from coordinator.domain.matching.job_report import ProfileMiners
from coordinator.domain.matching.needs import Constraints, Needs
from coordinator.domain.matching.reasons import QueuedFacts, reasons_to_wait
from coordinator.domain.messages import Millis
from coordinator.edge.context import EdgeContext
from coordinator.edge.dashboard.data.viewer import Viewer
from coordinator.edge.state.tables.rows import QueuedClassRow

MAX_CLASSES: Final = 200
FRESH_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLine:
    """The queued jobs with equal needs."""

    job_class: str
    service: str
    constraints: dict[str, Any]
    queued: int
    oldest_at: Millis | None
    """When the oldest of them was asked for; None if it has just been taken."""
    offers: int | None
    """On the work queues now; None in a process that does not dispatch."""
    eligible: int
    """The miners that could run them, busy or not."""
    sentence: str
    """What blocks, or that nothing does."""
    blocked: bool
    """Whether no miner can be found for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileLine:
    """The live miners with equal abilities of one principal."""

    profile: str
    principal: str
    online: int
    draining: int
    slots: int
    busy: int
    gpus: tuple[str, ...]
    services: tuple[str, ...]
    offers: int | None
    """On its work queue now; None in a process that does not dispatch."""
    quarantined: tuple[str, ...]
    """The services that it is in quarantine for; `every service` for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassesAndProfiles:
    classes: tuple[ClassLine, ...]
    """Those that nobody serves first, then the longest waits."""
    profiles: tuple[ProfileLine, ...]
    more_classes: bool
    """Whether there are more than are shown."""
    now: Millis


async def load(context: EdgeContext, viewer: Viewer) -> ClassesAndProfiles:
    """The classes with queued jobs, and all live profiles; up to two seconds old. Raises Refusal."""
    viewer.require_all("see classes")
    return await context.shared.get(("classes",), FRESH_SECONDS, lambda: _load(context))


async def _load(context: EdgeContext) -> ClassesAndProfiles:
    rows = await context.reads.queued_classes(MAX_CLASSES + 1)
    lines = await asyncio.gather(*(_class(context, row) for row in rows[:MAX_CLASSES]))
    now = time.time_ns() // 1_000_000
    offers = context.offers()
    profiles = await context.miners.get()
    return ClassesAndProfiles(
        classes=tuple(sorted(lines, key=lambda line: (not line.blocked, line.oldest_at or now))),
        profiles=tuple(_profile(profile, offers) for profile in profiles),
        more_classes=len(rows) > MAX_CLASSES,
        now=now,
    )


async def _class(context: EdgeContext, row: QueuedClassRow) -> ClassLine:
    needs = Needs.model_validate_json(row.constraints_json)
    wants = Constraints(**needs.model_dump(exclude={"list_price", "unit"}))
    report, oldest_at = await asyncio.gather(
        context.miners.report(row.service, wants, needs.list_price, needs.unit),
        context.reads.class_oldest(row.job_class, row.oldest),
    )
    sentence, _ = reasons_to_wait(report, QueuedFacts(expires_in=0))
    offers = context.offers()
    return ClassLine(
        job_class=row.job_class,
        service=row.service,
        constraints=wants.model_dump(mode="json", exclude_defaults=True),
        queued=row.queued,
        oldest_at=oldest_at,
        offers=None if offers is None else offers.by_class.get(row.job_class, 0),
        eligible=report.found,
        sentence=sentence,
        blocked=not report.found,
    )


def _profile(profile: ProfileMiners, offers: OpenOffers | None) -> ProfileLine:
    held = sorted(service or "every service" for service, kind in profile.quarantines.items() if kind)
    return ProfileLine(
        profile=profile.profile,
        principal=profile.principal,
        online=profile.online,
        draining=profile.draining,
        slots=profile.slots,
        busy=profile.busy,
        gpus=gpu_texts(profile.capabilities.gpus),
        services=profile.capabilities.services,
        offers=None if offers is None else offers.by_profile.get(profile.profile, 0),
        quarantined=tuple(held),
    )


def gpu_texts(gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    """`NVIDIA RTX 4090, 24 GB`, one for each card; GB as the names of cards count them (1024 MiB)."""
    return tuple(
        f"{gpu.name}, {round(gpu.memory_mb / 1024)} GB"
        if gpu.memory_mb >= 1024
        else f"{gpu.name}, {gpu.memory_mb} MiB"
        for gpu in gpus
    )
