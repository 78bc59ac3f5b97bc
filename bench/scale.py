"""Ours as the log grows: the same turns with more and more jobs in the log, and the time to start."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
from rich.table import Table

from bench.compare import Plan, Turn, take_turn
from bench.fill import Filled, fill
from bench.meter import peak_mib
from bench.processes import Failed
from bench.report import medians, rounded
from bench.servers import Servers
from bench.systems import OURS, START_SECONDS, start_coordinator

STARTS = 3


def scale(servers: Servers, levels: Sequence[int], plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """The measurements by the number of jobs in the log. The levels take turns, round after round."""
    databases: dict[int, str] = {}
    filled: dict[int, Filled] = {}
    for level in filter(None, levels):
        databases[level] = servers.new_database()
        filled[level] = made = fill(servers, databases[level], level)
        tell(
            f"{level:,} jobs: {made.events / made.append_seconds:,.0f} events/s appended, "
            f"{made.events / made.rebuild_seconds:,.0f} events/s folded, {made.database_mib:,.0f} MiB"
        )
    turns: dict[int, list[Turn]] = {level: [] for level in levels}
    starts: dict[int, list[dict[str, float]]] = {level: [] for level in levels}
    for number in range(plan.rounds):
        for level in levels:
            if level in databases:
                warm(databases[level])
            turn = take_turn(servers, OURS, plan, database_url=databases.get(level))
            turns[level].append(turn)
            tell(
                f"round {number + 1}: {level:>9,} jobs in the log: {turn.jobs_per_second:,.0f} jobs/s, "
                f"p99 {turn.p99_ms:.1f} ms, coordinator {turn.rss_mib_by_process['coordinator']:,.0f} MiB"
            )
    for level in levels:
        servers.settle()
        if level in databases:
            warm(databases[level])
        starts[level] = [start_up(servers, databases.get(level)) for _ in range(STARTS)]
    return {
        "levels": {
            str(level): {
                **medians(turns[level]),
                "start_seconds": middle(starts[level], "seconds"),
                "start_rss_mib": middle(starts[level], "rss_mib"),
                **({"filled": rates(filled[level])} if level in filled else {}),
                "rounds": [rounded(asdict(turn)) for turn in turns[level]],
            }
            for level in levels
        },
    }


def warm(database_url: str) -> None:
    """Read the whole database, as the system of a server that has been running has it in memory.

    Some machines take memory back that was not used for a minute, while other levels had their turns.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
        connection.execute("SELECT pg_prewarm(oid, 'read') FROM pg_class WHERE relkind IN ('r', 'i', 't')")


def middle(measured: Sequence[dict[str, float]], name: str) -> float:
    return round(statistics.median(m[name] for m in measured), 2)


def rates(filled: Filled) -> dict[str, Any]:
    return {
        "events": filled.events,
        "appended_events_per_second": round(filled.events / filled.append_seconds),
        "rebuilt_events_per_second": round(filled.events / filled.rebuild_seconds),
        "database_mib": round(filled.database_mib),
    }


def start_up(servers: Servers, database_url: str | None) -> dict[str, float]:
    """The seconds from the start of the process until it accepts a job over HTTP, and its memory then."""
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory(prefix="coordinator-bench-")))
        endpoints = enter(servers.endpoints(database_url))
        begun = time.perf_counter()
        coordinator, url, client_key, _ = start_coordinator(OURS, endpoints, folder)
        enter(coordinator)
        request = urllib.request.Request(
            f"{url}/v1/jobs",
            data=json.dumps({"service": "checksum", "payload": {"text": "first"}}).encode(),
            headers={"X-Api-Key": client_key, "Content-Type": "application/json"},
        )
        while time.perf_counter() - begun < START_SECONDS:
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    assert json.load(answer)["status"] == "accepted"
            except OSError:  # not listening or not ready yet
                time.sleep(0.01)
                continue
            return {"seconds": time.perf_counter() - begun, "rss_mib": peak_mib(coordinator.pid)}
        raise Failed(f"no job was accepted\n{coordinator.tail()}")


def table(found: Mapping[str, Any]) -> Table:
    shown = Table(title="ours, by the number of jobs in the log")
    headings = ("jobs in the log", "jobs/s", "CPU µs/job", "p50 ms", "p99 ms", "RSS MiB", "start s")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for level, measured in found["levels"].items():
        shown.add_row(
            f"{int(level):,}",
            f"{measured['jobs_per_second']:,.0f}",
            f"{measured['cpu_us_per_job']:,.0f}",
            f"{measured['p50_ms']:.1f}",
            f"{measured['p99_ms']:.1f}",
            f"{measured['rss_mib_by_process']['coordinator']:,.0f}",
            f"{measured['start_seconds']:.2f}",
        )
    return shown
