"""The comparison: every system in turn, round after round, on the same servers.

One turn: an empty database and virtual host, fresh processes of the system, an uncounted warm-up, a burst,
single jobs at a steady rate, and everything stopped again. So no system runs beside another, and other load
on the machine (it is never quiet) affects all of them alike.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.meter import Meter
from bench.servers import Servers
from bench.systems import System

RATE = 50  # jobs a second
ROUND_TO = 100  # jobs


@dataclass(frozen=True, slots=True)
class Plan:
    """The amounts of a comparison."""

    rounds: int
    jobs: int
    """In a burst of ours."""
    peer_seconds: float
    """A peer's burst has as many jobs as it completes in this time."""
    warm_up: int
    steady_jobs: int


FULL = Plan(rounds=3, jobs=20_000, peer_seconds=12.0, warm_up=500, steady_jobs=400)
QUICK = Plan(rounds=1, jobs=5_000, peer_seconds=2.0, warm_up=100, steady_jobs=100)


@dataclass(frozen=True, slots=True)
class Turn:
    """The measurements of one system in one round."""

    jobs: int
    seconds: float
    submit_seconds: float
    jobs_per_second: float
    cpu_us_by_process: dict[str, float]
    cpu_us_per_job: float
    rss_mib_by_process: dict[str, float]
    p50_ms: float
    p99_ms: float


def compare(
    servers: Servers, systems: Sequence[System], plan: Plan, tell: Callable[[str], None]
) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """The turns of each system, and the errors of failed systems; a failed system has no more turns."""
    turns: dict[str, list[Turn]] = {system.name: [] for system in systems}
    failed: dict[str, str] = {}
    for number in range(plan.rounds):
        for system in systems:
            if system.name in failed:
                continue
            known = turns[system.name]
            try:
                turn = take_turn(servers, system, plan, jobs=known[0].jobs if known else None)
            except Exception as error:
                failed[system.name] = f"{type(error).__name__}: {error}"
                tell(f"round {number + 1}: {system.name} failed: {error}")
                continue
            known.append(turn)
            tell(
                f"round {number + 1}: {system.name:<16} {turn.jobs_per_second:>6,.0f} jobs/s "
                f"{turn.cpu_us_per_job:>6,.0f} µs/job  p50 {turn.p50_ms:.1f} ms  p99 {turn.p99_ms:.1f} ms"
            )
    return turns, failed


def take_turn(
    servers: Servers, system: System, plan: Plan, jobs: int | None = None, database_url: str | None = None
) -> Turn:
    """`jobs`: in the burst; None first measures the number that a peer completes in the planned time."""
    with (
        tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder,
        servers.endpoints(database_url) as endpoints,
        system.run(endpoints, Path(folder)) as running,
    ):
        client = running.client
        client.burst(plan.warm_up)
        if jobs is None:
            jobs = plan.jobs
            if not system.name.startswith("ours"):
                rate = plan.warm_up / client.burst(plan.warm_up)["seconds"]
                jobs = math.ceil(rate * plan.peer_seconds / ROUND_TO) * ROUND_TO
        servers.settle()
        used = {name: root for name, root in servers.trees.items() if name in system.servers}
        meter = Meter({**running.trees, **used})
        burst = client.burst(jobs)
        cpu = {name: seconds / jobs * 1e6 for name, seconds in meter.cpu_seconds().items()}
        peak = meter.peak_mib()
        steady = client.steady(plan.steady_jobs, RATE)
    return Turn(
        jobs=jobs,
        seconds=burst["seconds"],
        submit_seconds=burst["submit_seconds"],
        jobs_per_second=jobs / burst["seconds"],
        cpu_us_by_process=cpu,
        cpu_us_per_job=sum(cpu.values()),
        rss_mib_by_process=peak,
        p50_ms=steady["p50_ms"],
        p99_ms=steady["p99_ms"],
    )
