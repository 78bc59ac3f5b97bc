"""The measurements as a document, and as tables for people."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.compare import Plan, Turn
from bench.systems import OURS, System


def summarise(
    systems: Sequence[System],
    turns: Mapping[str, Sequence[Turn]],
    failed: Mapping[str, str],
    plan: Plan,
    servers: Mapping[str, str],
) -> dict[str, Any]:
    """Medians over the rounds, the rounds themselves, and the ratios of ours to the best peers."""
    peers: dict[str, Any] = {}
    report: dict[str, Any] = {}
    for system in systems:
        if system.name in failed:
            continue
        found = {
            **medians(turns[system.name]),
            "durable": system.durable,
            "settings": system.settings,
            "rounds": [rounded(asdict(turn)) for turn in turns[system.name]],
        }
        if system.name.startswith("ours"):
            report[system.name] = found
        else:
            peers[system.name] = found
    report["peers"] = peers
    if OURS.name in report and peers:
        report["ratios"] = ratios(report[OURS.name], peers)
    if failed:
        report["failed"] = dict(failed)
    report["plan"] = asdict(plan)
    report["machine"] = machine(servers)
    return report


def medians(turns: Sequence[Turn]) -> dict[str, Any]:
    def of(values: Sequence[float]) -> float:
        return round(statistics.median(values), 2)

    def by_process(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: of([part[name] for part in parts]) for name in parts[0]}

    memory = by_process([turn.rss_mib_by_process for turn in turns])
    return {
        "jobs_per_second": of([turn.jobs_per_second for turn in turns]),
        "cpu_us_per_job": of([turn.cpu_us_per_job for turn in turns]),
        "p50_ms": of([turn.p50_ms for turn in turns]),
        "p99_ms": of([turn.p99_ms for turn in turns]),
        "rss_mib": round(sum(memory.values()), 1),
        "cpu_us_by_process": by_process([turn.cpu_us_by_process for turn in turns]),
        "rss_mib_by_process": memory,
    }


def ratios(ours: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Ours over the best peer's: above 1 is better for throughput, below 1 for CPU time and latency."""
    durable = [peer for peer in peers.values() if peer["durable"]]
    found = {
        "throughput_vs_best": ours["jobs_per_second"] / max(p["jobs_per_second"] for p in peers.values()),
        "cpu_vs_best": ours["cpu_us_per_job"] / min(p["cpu_us_per_job"] for p in peers.values()),
    }
    if durable:
        fastest = max(p["jobs_per_second"] for p in durable)
        found["throughput_vs_best_durable"] = ours["jobs_per_second"] / fastest
        for measure in ("p50", "p99"):
            best = min(p[f"{measure}_ms"] for p in durable)
            found[f"{measure}_vs_best_durable"] = ours[f"{measure}_ms"] / best
    return {name: round(value, 3) for name, value in found.items()}


def rounded(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: rounded(value) for key, value in document.items()}
    return round(document, 2) if isinstance(document, float) else document


def machine(servers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "coordinator": version("coordinator"),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        **servers,
    }


def commit() -> str | None:
    """The measured commit, with a plus if the files differ from it."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def rows(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Ours and the peers, fastest first."""
    ours = [(name, report[name]) for name in report if name.startswith("ours")]
    return sorted((*ours, *report["peers"].items()), key=lambda row: -row[1]["jobs_per_second"])


def tables(report: Mapping[str, Any]) -> list[Table]:
    return [_outcomes(report), _costs(report)]


def _outcomes(report: Mapping[str, Any]) -> Table:
    shown = Table(title="from first submit until every result is readable by id; medians")
    shown.add_column("system", no_wrap=True)
    shown.add_column("results")
    for heading in ("jobs/s", "CPU µs/job", "p50 ms", "p99 ms", "RSS MiB"):
        shown.add_column(heading, justify="right")
    for name, found in rows(report):
        shown.add_row(
            name,
            "durable" if found["durable"] else "memory",
            f"{found['jobs_per_second']:,.0f}",
            f"{found['cpu_us_per_job']:,.0f}",
            f"{found['p50_ms']:.1f}",
            f"{found['p99_ms']:.1f}",
            f"{found['rss_mib']:,.0f}",
            style="bold" if name == OURS.name else None,
        )
    return shown


def _costs(report: Mapping[str, Any]) -> Table:
    shown = Table(title="CPU µs per job by process")
    shown.add_column("system", no_wrap=True)
    processes = ("coordinator", "worker", "client", "rabbitmq", "postgres", "redis")
    for process in processes:
        shown.add_column("miner, worker" if process == "worker" else process, justify="right")
    for name, found in rows(report):
        spent = dict(found["cpu_us_by_process"])
        spent.setdefault("worker", spent.pop("miner", 0.0))
        shown.add_row(name, *(f"{spent[p]:,.0f}" if p in spent else "" for p in processes))
    return shown
