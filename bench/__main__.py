"""`python -m bench`: compares ours with popular task queues, on the same machine in the same run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import compare, money, over_http, report, scale
from bench.matching import matching
from bench.publish import publish
from bench.servers import Servers, missing
from bench.systems import FOLDER, OURS, OURS_QUORUM, PEER_BIN, PEER_SYSTEMS, Peer, System
from coordinator.runtime.process.logs import configure_logs

RESULTS = FOLDER / "results"
SYSTEMS: dict[str, System] = {s.name: s for s in (OURS, OURS_QUORUM, *PEER_SYSTEMS)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=("compare", "http", "money", "scale", "publish"),
        default="compare",
        help="compare with the peers, and HTTP; http alone; money: ours with and without accounts; "
        "scale with longer logs; publish the last results",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, under three minutes in total")
    parser.add_argument("--rounds", type=int, help="number of turns of each system")
    parser.add_argument("--jobs", type=int, help="jobs in a burst of ours")
    parser.add_argument("--only", help=f"some of {', '.join(SYSTEMS)}, separated by commas")
    parser.add_argument("--levels", default="0,100000,1000000", help="scale: jobs in the log")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    configure_logs(level="warning")
    if options.what == "publish":
        raise SystemExit(publish(RESULTS))
    names = options.only.split(",") if options.only else quick_or_all(options.quick)
    if unknown := [name for name in names if name not in SYSTEMS]:
        parser.error(f"no such system: {', '.join(unknown)}")
    if lacking := missing():
        raise SystemExit(f"bench: {', '.join(lacking)} not installed here; run `make servers`")
    plan = compare.QUICK if options.quick else compare.FULL
    plan = replace(plan, rounds=options.rounds or plan.rounds, jobs=options.jobs or plan.jobs)
    if options.what == "scale":
        levels = [int(level) for level in options.levels.split(",")]
        raise SystemExit(run_scale(console, levels, plan, as_json=options.json))
    http_plan = over_http.QUICK if options.quick else over_http.FULL
    if options.what == "http":
        raise SystemExit(run_http(console, http_plan, as_json=options.json))
    if options.what == "money":
        raise SystemExit(run_money(console, plan, as_json=options.json))
    systems = [SYSTEMS[name] for name in names]
    if any(isinstance(s, Peer) for s in systems) and not (PEER_BIN / "python").exists():
        raise SystemExit("bench: the peers are not installed; run `make bench`, or give --only ours")
    plan_of_http = None if options.only else http_plan
    raise SystemExit(run(console, systems, plan, plan_of_http, as_json=options.json))


def quick_or_all(quick: bool) -> list[str]:
    return [name for name in SYSTEMS if not (quick and name == OURS_QUORUM.name)]


def run(
    console: Console,
    systems: Sequence[System],
    plan: compare.Plan,
    http_plan: over_http.HttpPlan | None,
    *,
    as_json: bool,
) -> int:
    console.print("starting RabbitMQ, Postgres and Redis …")
    with Servers() as servers:
        turns, failed = compare.compare(servers, systems, plan, console.print)
        found = report.summarise(systems, turns, failed, plan, servers.versions())
        save("latest", found)
        if http_plan is not None:
            found["http"] = over_http.measure(servers, http_plan, console.print)
    save("latest", found)
    draw(RESULTS / "latest.json", RESULTS / "latest")
    for table in report.tables(found):
        console.print(table)
    for name, ratio in found.get("ratios", {}).items():
        console.print(f"{name}: {ratio:.2f}")
    if as_json:
        print(json.dumps(found))
    for name, reason in failed.items():
        console.print(f"{name} failed: {reason}", style="red", markup=False)
    return 1 if failed else 0


def run_http(console: Console, plan: over_http.HttpPlan, *, as_json: bool) -> int:
    """Measure HTTP alone, and put it into the last results."""
    console.print("starting RabbitMQ, Postgres and Redis …")
    with Servers() as servers:
        found = over_http.measure(servers, plan, console.print)
    latest = RESULTS / "latest.json"
    document = json.loads(latest.read_text()) if latest.exists() else {}
    save("latest", {**document, "http": found})
    if as_json:
        print(json.dumps(found))
    return 0


def run_money(console: Console, plan: compare.Plan, *, as_json: bool) -> int:
    console.print("starting RabbitMQ, Postgres and Redis …")
    with Servers() as servers:
        found = money.measure(servers, plan, console.print)
        found |= {"plan": asdict(plan), "machine": report.machine(servers.versions())}
    save("money", found)
    console.print(money.table(found))
    console.print(
        f"jobs/s with accounts: {found['throughput']:.2f} of those without; CPU: {found['cpu']:.2f}"
    )
    if as_json:
        print(json.dumps(found))
    return 0


def run_scale(console: Console, levels: Sequence[int], plan: compare.Plan, *, as_json: bool) -> int:
    console.print("starting RabbitMQ, Postgres and Redis …")
    with Servers() as servers:
        found = scale.scale(servers, levels, plan, console.print)
        found |= {"plan": asdict(plan), "machine": report.machine(servers.versions())}
    console.print(scale.table(found))
    save("scale", found)
    found["matching"] = matching(console.print)
    save("scale", found)
    if as_json:
        print(json.dumps(found))
    return 0


def save(name: str, found: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")


def draw(document: Path, target: Path) -> None:
    """Draw PNG and SVG, if the benchmark's own environment with matplotlib is installed."""
    if (PEER_BIN / "python").exists():
        plot = [PEER_BIN / "python", FOLDER / "plot.py", document, target]
        if subprocess.run(plot, check=False).returncode:
            print("bench: no plot was made", file=sys.stderr)


if __name__ == "__main__":
    main()
