"""`make matrix`: every value that the schemas accept, on every input. Exit 1 if an accepted one fails."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.matrix.cases import Verdict
from tests.matrix.running import SERVICES, run


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("services", nargs="*", default=list(SERVICES), help=f"of {', '.join(SERVICES)}")
    parser.add_argument("--sample", type=int, metavar="N", help="only N cases of each service")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at the same time")
    parser.add_argument("--json", action="store_true", help="one JSON object for each case")
    parser.add_argument("--verbose", action="store_true", help="each case, and not only the failed ones")
    options = parser.parse_args()
    started, verdicts = time.monotonic(), []
    for service in options.services:
        with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
            running = run(
                service,
                Path(folder),
                jobs=options.jobs,
                seed=options.seed,
                sample=options.sample,
                told=_as_json if options.json else _as_ticks,
            )
            verdicts += asyncio.run(running)
    if not options.json:
        _print_table(verdicts, options.verbose)
        print(f"{len(verdicts)} cases in {time.monotonic() - started:.0f} s")
    return int(any(verdict.outcome == "failed" for verdict in verdicts))


def _as_ticks(verdict: Verdict, left: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{left:6} left ", end="", file=sys.stderr, flush=True)


def _as_json(verdict: Verdict, left: int) -> None:
    row = {
        "kind": verdict.case.kind,
        "input": verdict.case.input.name,
        "payload": verdict.case.payload,
        "outcome": verdict.outcome,
        "message": verdict.message,
        "seconds": round(verdict.seconds, 3),
    }
    print(json.dumps(row), flush=True)


def _print_table(verdicts: Iterable[Verdict], verbose: bool) -> None:
    verdicts = list(verdicts)
    outcomes = ("done", "refused", "too large", "elsewhere", "failed")
    print(f"{'':44}" + "".join(f"{outcome:>11}" for outcome in outcomes))
    for group in ("kind", "format", "input"):
        counted: dict[str, Counter[str]] = {}
        for verdict in verdicts:
            counted.setdefault(_group(verdict, group), Counter())[verdict.outcome] += 1
        for name, counts in counted.items():
            print(f"{group + ' ' + name:44}" + "".join(f"{counts[outcome]:>11}" for outcome in outcomes))
    for outcome in outcomes if verbose else ("failed",):
        for verdict in verdicts:
            if verdict.outcome == outcome:
                print(f"{outcome}: {verdict.case}\n    {verdict.message}")
    for message, count in Counter(v.message for v in verdicts if v.outcome not in ("done", "failed")).items():
        print(f"{count:6} × {message}")


def _group(verdict: Verdict, group: str) -> str:
    match group:
        case "kind":
            return verdict.case.kind
        case "input":
            return verdict.case.input.name
        case _:
            return str(verdict.case.payload.get("output_format", "(default)"))


if __name__ == "__main__":
    sys.exit(main())
