"""Draw a report: `bench/.venv/bin/python bench/plot.py latest.json latest` writes latest.png and latest.svg.

It runs in the benchmark's own environment, which has matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

COLOURS = {
    "coordinator": "#d1495b",
    "miner": "#edae49",
    "worker": "#edae49",
    "client": "#00798c",
    "rabbitmq": "#8d96a3",
    "postgres": "#2e4057",
    "redis": "#a23b72",
}


def main() -> None:
    report = json.loads(Path(sys.argv[1]).read_text())
    target = Path(sys.argv[2])
    ours = [(name, report[name]) for name in report if name.startswith("ours")]
    systems = sorted((*ours, *report["peers"].items()), key=lambda row: row[1]["jobs_per_second"])
    plt.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "bench"})
    height = 1.2 + 0.38 * len(systems)
    figure, (rate, cpu, latency) = plt.subplots(1, 3, figsize=(12, height), sharey=True)
    throughput(rate, systems)
    cost(cpu, systems)
    round_trip(latency, systems)
    for axes in (rate, cpu, latency):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    for suffix, extra in ((".png", {}), (".svg", {"Date": None})):
        figure.savefig(target.with_suffix(suffix), dpi=110, metadata=extra or None)


def throughput(axes: Any, systems: list[tuple[str, dict[str, Any]]]) -> None:
    axes.set_title("jobs a second")
    for place, (name, found) in enumerate(systems):
        bar = axes.barh(
            place,
            found["jobs_per_second"],
            color="#d1495b" if name.startswith("ours") else "#8d96a3",
            hatch=None if found["durable"] else "//",
            edgecolor="white",
        )
        axes.bar_label(bar, fmt="{:,.0f}", padding=2)
    axes.set_yticks(range(len(systems)), [name for name, _ in systems])
    axes.set_xlabel("hatched: results kept in memory first")
    axes.margins(x=0.15)


def cost(axes: Any, systems: list[tuple[str, dict[str, Any]]]) -> None:
    axes.set_title("CPU µs a job, all processes")
    for place, (_, found) in enumerate(systems):
        left = 0.0
        for process in COLOURS:
            spent = found["cpu_us_by_process"].get(process, 0.0)
            axes.barh(place, spent, left=left, color=COLOURS[process], edgecolor="white", linewidth=0.4)
            left += spent
        axes.annotate(f" {found['cpu_us_per_job']:,.0f}", (left, place), va="center")
    names = {"miner": None, "worker": "worker, miner"}
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=colour, label=names.get(process, process))
        for process, colour in COLOURS.items()
        if names.get(process, process)
    ]
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper right")
    axes.margins(x=0.15)


def round_trip(axes: Any, systems: list[tuple[str, dict[str, Any]]]) -> None:
    axes.set_title("round trip of one job at 50 a second, ms")
    for place, (_, found) in enumerate(systems):
        axes.plot([found["p50_ms"], found["p99_ms"]], [place, place], color="#8d96a3", zorder=1)
        axes.scatter(found["p50_ms"], place, color="#2e4057", zorder=2)
        axes.scatter(found["p99_ms"], place, color="#d1495b", zorder=2)
    axes.set_xlim(left=0)
    axes.set_xlabel("dark: median, red: 99 of 100")


if __name__ == "__main__":
    main()
