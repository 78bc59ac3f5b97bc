"""The figures of `coordinator top`: read over HTTP with an admin's key, with rates between two readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator
    from coordinator.client.models import JobView

SAMPLED_JOBS = 200
"""Queued and running jobs that are read for one screen, the newest ones."""
EXPLAINED_JOBS = 6
"""Queued jobs whose wait is explained: the oldest of the sample, of different services first."""
SHOWN_MINERS = 200


@dataclass(frozen=True)
class FollowerLag:
    status: str
    lag: int | None
    """Positions behind the log; None where another process leads."""


@dataclass(frozen=True)
class Waiting:
    """Jobs of one class that wait for a miner."""

    service: str
    constraints: dict[str, Any]
    jobs: int
    """In the sample."""
    oldest_seconds: float
    why: str


@dataclass(frozen=True)
class MinerLoad:
    miner_id: str
    state: str
    busy: int
    slots: int


@dataclass(frozen=True)
class Figures:
    """One reading. Rates are per second since the reading before; None at first. Ages are in seconds."""

    at: float
    url: str
    mode: str
    status: str
    reasons: list[str]
    warnings: list[str]
    position: int
    events: float | None
    commands: float | None
    """Answered by the process that was asked; `completed` likewise."""
    completed: float | None
    queued: int | None
    oldest_seconds: float | None
    running: int | None
    offers: int | None
    slots: int | None
    busy: int | None
    miners_by_state: dict[str, int]
    followers: dict[str, FollowerLag]
    waiting: list[Waiting] = field(default_factory=list)
    miners: list[MinerLoad] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    """What the next reading's rates are counted from."""

    def document(self) -> dict[str, Any]:
        """For programs."""
        shown = asdict(self)
        del shown["counters"]
        return shown


async def read_figures(client: AsyncCoordinator, before: Figures | None, now: float) -> Figures:
    """One reading; `now`: Unix seconds. Raises CoordinatorError."""
    health = await client.health_report()
    stats = await client.stats()
    position = int(stats["position"])
    counters = {
        "position": position,
        "commands": int(stats["commands"]),
        "completed": int(stats["events"].get("job.completed.v1", 0)),
    }
    running = [job async for job in client.all_jobs(state="RUNNING", limit=SAMPLED_JOBS)]
    oldest = stats.get("oldest_queued_at")
    return Figures(
        at=now,
        url=client.http.url,
        mode=stats["mode"],
        status=str(health.get("status", "?")),
        reasons=[str(reason) for reason in health.get("reasons", [])],
        warnings=[str(warning) for warning in health.get("warnings", [])],
        position=position,
        events=_rate("position", counters, before, now),
        commands=_rate("commands", counters, before, now),
        completed=_rate("completed", counters, before, now),
        queued=stats["jobs_queued"],
        oldest_seconds=None if oldest is None else max(0.0, now - datetime.fromisoformat(oldest).timestamp()),
        running=stats["jobs_running"],
        offers=stats["offers"],
        slots=stats["slots"],
        busy=stats["busy_slots"],
        miners_by_state=stats["miners"],
        followers={name: _follower(found, position) for name, found in stats["followers"].items()},
        waiting=await _waiting(client, now) if stats["jobs_queued"] else [],
        miners=await _miners(client, running),
        counters=counters,
    )


def _rate(name: str, counters: Mapping[str, int], before: Figures | None, now: float) -> float | None:
    if before is None or now <= before.at or counters[name] < before.counters[name]:
        return None  # the first reading, or the process was started in between
    return (counters[name] - before.counters[name]) / (now - before.at)


def _follower(found: Mapping[str, Any], position: int) -> FollowerLag:
    leads = found["status"] == "leading"
    return FollowerLag(found["status"], max(0, position - found["position"]) if leads else None)


async def _miners(client: AsyncCoordinator, running: list[JobView]) -> list[MinerLoad]:
    busy: dict[str, int] = {}
    for job in running:
        if job.assigned_miner_id is not None:
            busy[job.assigned_miner_id] = busy.get(job.assigned_miner_id, 0) + 1
    found = [
        MinerLoad(miner["miner_id"], miner["state"], busy.get(miner["miner_id"], 0), miner["concurrency"])
        async for miner in client.miners(limit=SHOWN_MINERS)
        if miner["state"] != "OFFLINE"
    ]
    return sorted(found, key=lambda miner: (-miner.busy, miner.miner_id))


async def _waiting(client: AsyncCoordinator, now: float) -> list[Waiting]:
    from coordinator.client import CoordinatorError

    queued = [job async for job in client.all_jobs(state="QUEUED", limit=SAMPLED_JOBS)]
    queued.reverse()
    first_of: dict[str, JobView] = {}
    for job in queued:
        first_of.setdefault(job.service, job)
    others = [job for job in queued if job is not first_of[job.service]]
    classes: dict[tuple[str, str], Waiting] = {}
    for job in [*first_of.values(), *others][:EXPLAINED_JOBS]:
        try:
            match = await client.http.ask_json("GET", f"/v1/jobs/{job.job_id}/match")
        except CoordinatorError:
            continue  # it has ended meanwhile
        service, constraints = str(match["service"]), dict(match["constraints"])
        if match["state"] == "QUEUED" and (service, str(constraints)) not in classes:
            old = max(0.0, now - job.requested_at.timestamp())
            classes[service, str(constraints)] = Waiting(service, constraints, 1, old, match["sentence"])
    of_service: dict[str, int] = {}
    for job in queued:
        of_service[job.service] = of_service.get(job.service, 0) + 1
    found = list(classes.values())
    for number, one in enumerate(found):
        if sum(other.service == one.service for other in found) == 1:
            found[number] = Waiting(
                one.service, one.constraints, of_service[one.service], one.oldest_seconds, one.why
            )
    return found
