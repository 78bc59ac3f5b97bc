"""Puts the last results into BENCHMARKS.md: it writes the tables from the JSON, but not the text.

The documents and the drawing of the published run go to docs/benchmarks/ and into the repository.
bench/results/ is always the last run on this machine.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import rows

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "BENCHMARKS.md"
SHOWN = ROOT / "docs" / "benchmarks"

Document = Mapping[str, Any]


def publish(results: Path) -> int:
    """Returns the exit code: 1 if there is nothing to publish."""
    page, done = PAGE.read_text(), 0
    SHOWN.mkdir(parents=True, exist_ok=True)
    for name, blocks in BLOCKS.items():
        document = results / f"{name}.json"
        if not document.exists():
            continue
        found = json.loads(document.read_text())
        for block, write in blocks.items():
            page = put(page, block, write(found))
        for file in (document, results / f"{name}.svg"):
            if file.exists():
                shutil.copy(file, SHOWN / file.name)
        done += 1
    PAGE.write_text(page)
    return 0 if done else 1


def put(page: str, block: str, text: str) -> str:
    """The page with `text` between `<!-- block -->` and `<!-- /block -->`."""
    pattern = rf"(<!-- {block} -->\n).*?(<!-- /{block} -->)"
    if len(re.findall(pattern, page, re.DOTALL)) != 1:
        raise SystemExit(f"bench: {PAGE.name} has no block {block!r}")
    return re.sub(pattern, lambda match: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)


def run(found: Document) -> str:
    m = found["machine"]
    return (
        f"{m['at'][:10]}, commit {m['commit']}: {m['cores']} cores ({m['processor']}), {m['system']}, "
        f"Python {m['python']}, RabbitMQ {m['rabbitmq']}, Postgres {m['postgres']}, Redis {m['redis']}; "
        f"load average {m['load_average'][0]} at the end; {found['plan']['rounds']} rounds."
    )


def outcomes(found: Document) -> str:
    return markdown(
        ("system", "results", "jobs/s", "CPU µs/job", "p50 ms", "p99 ms", "peak RSS MiB"),
        [
            (name, "durable" if f["durable"] else "memory", *headline(f), f"{f['rss_mib']:,.0f}")
            for name, f in rows(found)
        ],
        words=2,
    )


def headline(f: Document) -> tuple[str, ...]:
    rate, cpu = f["jobs_per_second"], f["cpu_us_per_job"]
    return (f"{rate:,.0f}", f"{cpu:,.0f}", f"{f['p50_ms']:.1f}", f"{f['p99_ms']:.1f}")


def ratios(found: Document) -> str:
    return markdown(
        ("ours over the best peer's", "ratio"), [(n, f"{v:.2f}") for n, v in found["ratios"].items()]
    )


def processes(found: Document) -> str:
    names = ("coordinator", "miner", "worker", "client", "rabbitmq", "postgres", "redis")

    def cells(f: Document) -> list[str]:
        cpu, memory = f["cpu_us_by_process"], f["rss_mib_by_process"]
        return [f"{cpu[p]:,.0f} µs, {memory[p]:,.0f} MiB" if p in cpu else "" for p in names]

    return markdown(("system", *names), [(name, *cells(f)) for name, f in rows(found)])


def settings(found: Document) -> str:
    return "\n".join(f"- **{name}**: {f['settings']}." for name, f in rows(found))


def over_http(found: Document) -> str:
    modes = found.get("http")
    if modes is None:
        return "Not measured in this run: `python -m bench http` does."
    names = list(next(iter(modes.values()))["requests"])
    requests = markdown(
        ("CPU µs of the coordinator a request", *names),
        [(mode, *(f"{f['requests'][name]:,.0f}" for name in names)) for mode, f in modes.items()],
    )
    whole = markdown(
        ("mode", "requests a job", "jobs/s", "CPU µs/job", "p50 ms", "p99 ms"),
        [
            (mode, count, *headline(figures))
            for mode, f in modes.items()
            for count, figures in (("4", f), ("2", f["fewest_requests"]))
        ],
    )
    others = markdown(
        ("mode", "submits/s by connections", "polls"),
        [
            (
                mode,
                ", ".join(
                    f"{n}: {s['per_second']:,.0f} ({s['coordinator_cpu_us']:,.0f} µs)"
                    for n, s in f["submits"].items()
                ),
                (
                    f"{f['polls']['miners']:,} miners, {f['polls']['idle_cores']:.2f} cores idle, claims "
                    f"after {f['polls']['claim_p50_ms']:.0f} / {f['polls']['claim_p99_ms']:.0f} ms"
                ),
            )
            for mode, f in modes.items()
        ],
    )
    return f"{whole}\n\n{others}\n\n{requests}"


def levels(found: Document) -> str:
    return markdown(
        ("jobs in the log", "jobs/s", "CPU µs/job", "p50 ms", "p99 ms", "coordinator RSS MiB", "start s"),
        [
            (
                f"{int(level):,}",
                *headline(f),
                f"{f['rss_mib_by_process']['coordinator']:,.0f}",
                f"{f['start_seconds']:.2f}",
            )
            for level, f in found["levels"].items()
        ],
    )


def fills(found: Document) -> str:
    filled = {level: f["filled"] for level, f in found["levels"].items() if "filled" in f}
    return markdown(
        ("jobs", "events", "appended events/s", "all derived tables rebuilt, events/s", "database MiB"),
        [
            (
                f"{int(level):,}",
                f"{f['events']:,}",
                f"{f['appended_events_per_second']:,}",
                f"{f['rebuilt_events_per_second']:,}",
                f"{f['database_mib']:,}",
            )
            for level, f in filled.items()
        ],
    )


def matching(found: Document) -> str:
    headings = {
        "miners": "miners",
        "profiles": "profiles",
        "classes": "classes",
        "us_per_miner": "µs a registration",
        "us_per_job_of_a_known_class": "µs a job of a known class",
        "us_per_job_of_a_new_class": "of a new one",
        "us_per_pair": "µs a pair",
        "ms_look": "ms a look at nothing new",
    }
    return markdown(
        tuple(headings.values()), [[f"{m[name]:,}" for name in headings] for m in found["matching"]]
    )


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table; the first `words` columns are words, the others numbers."""
    marks = ["---" if column < words else "--:" for column in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, marks, *lines))


BLOCKS: Mapping[str, Mapping[str, Callable[[Document], str]]] = {
    "latest": {
        "run": run,
        "outcomes": outcomes,
        "ratios": ratios,
        "processes": processes,
        "settings": settings,
        "http": over_http,
    },
    "scale": {"scale run": run, "levels": levels, "fills": fills, "matching": matching},
}
