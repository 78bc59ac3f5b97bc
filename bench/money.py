"""The cost of accounts: ours with and without them, in turn, with jobs that have a price.

A job counts as done when its result can be read; with accounts it must be paid by then, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from rich.table import Table

from bench import compare, report
from bench.servers import Servers
from bench.systems import OURS_PAID, OURS_UNPAID


def measure(servers: Servers, plan: compare.Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Medians without and with accounts, and the median ratio of the rounds. Raises if either fails."""
    systems = (OURS_UNPAID, OURS_PAID)
    turns, failed = compare.compare(servers, systems, plan, tell)
    for name, reason in failed.items():
        raise RuntimeError(f"{name} failed: {reason}")
    off, on = (turns[system.name] for system in systems)
    pairs = list(zip(off, on, strict=True))
    return {
        "off": report.medians(off),
        "on": report.medians(on),
        "throughput": statistics.median(b.jobs_per_second / a.jobs_per_second for a, b in pairs),
        "cpu": statistics.median(b.cpu_us_per_job / a.cpu_us_per_job for a, b in pairs),
        "rounds": [[a.jobs_per_second, b.jobs_per_second] for a, b in pairs],
    }


def table(found: dict[str, Any]) -> Table:
    shown = Table(title="accounts: from first submit until every job is done, and paid; medians")
    shown.add_column("accounts")
    processes = ("coordinator", "miner", "client", "rabbitmq", "postgres")
    for heading in ("jobs/s", "CPU µs/job", *processes):
        shown.add_column(heading, justify="right")
    for name in ("off", "on"):
        part = found[name]
        spent = [part["cpu_us_by_process"][process] for process in processes]
        figures = (part["jobs_per_second"], part["cpu_us_per_job"], *spent)
        shown.add_row(name, *(f"{figure:,.0f}" for figure in figures))
    return shown
