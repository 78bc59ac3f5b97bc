"""`python -m bench`: jobs/s until all results are readable, CPU per job, and latency at a steady rate."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench.ours import Burst, Steady, as_dict, burst, steady
from bench.stage import Stage
from coordinator.logs import configure_logs

RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs in a burst")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of 4,000 jobs")
    parser.add_argument("--work-queues", choices=["classic", "quorum"], default="classic")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args()
    jobs, rounds = (4_000, 1) if options.quick else (options.jobs, options.rounds)
    console = Console(stderr=options.json)
    configure_logs(level="warning")
    with Stage(work_queue_type=options.work_queues) as stage:
        console.print("warming up …")
        uvloop.run(burst(stage, 500))
        bursts: list[Burst] = []
        for number in range(rounds):
            bursts.append(uvloop.run(burst(stage, jobs)))
            console.print(f"round {number + 1}: {bursts[-1].jobs_per_second:,.0f} jobs/s")
        latency = uvloop.run(steady(stage))
    report = summarise(bursts, latency)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    if options.json:
        print(json.dumps(report))
    else:
        show(console, report)


def summarise(bursts: list[Burst], latency: Steady) -> dict[str, Any]:
    """Medians over the rounds, and the rounds themselves."""
    middle = sorted(bursts, key=lambda b: b.jobs_per_second)[len(bursts) // 2]
    return {
        "ours": {
            "jobs_per_second": statistics.median(b.jobs_per_second for b in bursts),
            "cpu_us_per_job": statistics.median(b.cpu_us_total for b in bursts),
            "cpu_us_by_process": middle.cpu_us_per_job,
            "rss_mib": middle.rss_mib,
            "p50_ms": latency.p50_ms,
            "p99_ms": latency.p99_ms,
        },
        "rounds": [as_dict(b) for b in bursts],
        "latency": as_dict(latency),
    }


def show(console: Console, report: dict[str, Any]) -> None:
    ours = report["ours"]
    table = Table(title="standard mode, one client, one miner, checksum jobs of a few bytes")
    for heading in ("process", "CPU µs per job", "RSS MiB"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for name, cpu in ours["cpu_us_by_process"].items():
        table.add_row(name, f"{cpu:,.0f}", f"{ours['rss_mib'][name]:,.0f}")
    table.add_row("all", f"{ours['cpu_us_per_job']:,.0f}", "", style="bold")
    console.print(table)
    console.print(
        f"{ours['jobs_per_second']:,.0f} jobs/s; at {report['latency']['rate']} jobs/s "
        f"p50 {ours['p50_ms']:.1f} ms, p99 {ours['p99_ms']:.1f} ms"
    )


if __name__ == "__main__":
    main()
