"""`python -m bench.reads`: the latency of reads over HTTP at a steady rate, with many jobs in the tables.

The jobs take the normal way: commands through the bus, events in the log, the projector's tables. Then the
coordinator runs as a process of its own. Requests are sent at their times, even if earlier ones are not
answered yet. Each is timed from its due time, so that waits are included.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.table import Table

from bench.meter import Meter
from bench.reads_fill import CLIENT, Filled, fill
from coordinator.dev.demo.processes import Children, bare_environment
from coordinator.dev.servers import private_postgres, private_rabbitmq
from coordinator.dev.servers.processes import free_port
from coordinator.runtime.process.logs import configure_logs
from coordinator.runtime.settings import load_settings

RESULTS: Final = Path(__file__).parent / "results" / "reads.json"
CONNECTIONS: Final = 16
START_SECONDS: Final = 60.0
MIX: Final = {"show_job": 50, "list_jobs": 15, "list_jobs_in_state": 10, "get_result": 15, "show_service": 10}
"""The percentage of each kind of request."""


@dataclass(frozen=True, slots=True)
class Round:
    """The latencies of a round in milliseconds, by kind of request, and its cost."""

    latencies: dict[str, list[float]]
    cpu_us_per_request: float
    peak_mib: float

    @property
    def all(self) -> list[float]:
        return sorted(itertools.chain(*self.latencies.values()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.reads", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=200, help="requests a second")
    parser.add_argument("--seconds", type=int, default=15, help="of one round")
    parser.add_argument(
        "--rounds", type=int, default=3, help="the best one counts, as other programs disturb"
    )
    parser.add_argument("--mode", choices=["embedded", "standard"], action="append")
    options = parser.parse_args()
    configure_logs(level="warning")
    console = Console()
    report: dict[str, Any] = {}
    for mode in options.mode or ("embedded", "standard"):
        with filled_coordinator(mode, options.jobs, console) as (url, key, filled, pid):
            rounds = []
            for number in range(options.rounds + 1):
                seconds = options.seconds if number else 3  # the first round only warms up
                rounds.append(uvloop.run(run_round(url, key, filled, pid, options.rate, seconds)))
                if number:
                    console.print(f"{mode}, round {number}: p99 {percentile(rounds[-1].all, 99):.1f} ms")
            best = min(rounds[1:], key=lambda r: percentile(r.all, 99))
        report[mode] = show(console, mode, options, best)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


@contextmanager
def filled_coordinator(mode: str, jobs: int, console: Console) -> Iterator[tuple[str, str, Filled, int]]:
    """A coordinator with `jobs` jobs: its address, a client's key, the jobs' ids, its process id."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coordinator-bench-")))
        settings: dict[str, str] = {"DATA_DIR": str(folder / "data")}
        if mode == "standard":
            broker, postgres = (
                stack.enter_context(private_rabbitmq()),
                stack.enter_context(private_postgres()),
            )
            settings |= {"DATABASE_URL": postgres.new_database(), "AMQP_URL": broker.new_vhost()}
        begun = time.monotonic()
        filled = uvloop.run(fill(load_settings(**{k.lower(): v for k, v in settings.items()}), jobs))
        console.print(f"{mode}: {jobs:,} jobs in {time.monotonic() - begun:.0f} s")
        key, port = f"{CLIENT}:{secrets.token_hex(16)}", free_port()
        children = stack.enter_context(Children(bare_environment({}), folder))
        child = children.start(
            "coordinator",
            "serve",
            **settings,
            APP_PORT=str(port),
            CLIENT_API_KEYS=key,
            JOB_TTL_SECONDS="604800",
        )
        if not asyncio.run(_ready(port)):
            print(child.log.read_text()[-3000:], file=sys.stderr)
            raise SystemExit("bench: the coordinator did not start")
        yield f"127.0.0.1:{port}", key, filled, child.pid


async def run_round(url: str, key: str, filled: Filled, pid: int, rate: int, seconds: int) -> Round:
    """Send requests at their times, over a few persistent connections."""
    rng = random.Random(seconds)  # the same requests in every round
    kinds = rng.choices(list(MIX), list(MIX.values()), k=rate * seconds)
    requests = [(kind, _path(kind, filled, rng)) for kind in kinds]
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await Connection.open(url, key))
    latencies: dict[str, list[float]] = {kind: [] for kind in MIX}
    meter = Meter({"coordinator": pid})
    start = time.perf_counter() + 0.1

    async def send(kind: str, path: str, due: float) -> None:
        connection = await free.get()
        status = await connection.get(path)
        latencies[kind].append((time.perf_counter() - due) * 1000)
        free.put_nowait(connection)
        if status != 200:
            raise SystemExit(f"bench: {path} answered {status}")

    async with asyncio.TaskGroup() as group:
        for number, (kind, path) in enumerate(requests):
            due = start + number / rate
            await asyncio.sleep(due - time.perf_counter())
            group.create_task(send(kind, path, due))
    spent = meter.cpu_seconds()["coordinator"]
    while not free.empty():
        free.get_nowait().close()
    return Round(latencies, spent / len(requests) * 1e6, meter.peak_mib()["coordinator"])


class Connection:
    """A persistent connection for one request after the other; minimal HTTP/1.1, to cost little."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: str) -> None:
        self._reader, self._writer, self._headers = reader, writer, headers

    @classmethod
    async def open(cls, address: str, key: str) -> Connection:
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        return cls(reader, writer, f"Host: {address}\r\nX-Api-Key: {key}\r\n\r\n")

    async def get(self, path: str) -> int:
        """The status; the body is read and dropped."""
        self._writer.write(f"GET {path} HTTP/1.1\r\n{self._headers}".encode())
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.partition(b":")[2]))
        return int(answer[9:12])

    def close(self) -> None:
        self._writer.close()


def _path(kind: str, filled: Filled, rng: random.Random) -> str:
    match kind:
        case "show_job":
            return f"/v1/jobs/{rng.choice(filled.jobs)}"
        case "get_result":
            return f"/v1/jobs/{rng.choice(filled.completed)}/result"
        case "list_jobs":
            return "/v1/jobs?limit=20"
        case "list_jobs_in_state":
            return f"/v1/jobs?limit=20&state={rng.choice(['QUEUED', 'COMPLETED', 'CANCELED'])}"
    return "/v1/registry/services/checksum"


async def _ready(port: int) -> bool:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            connection = await Connection.open(f"127.0.0.1:{port}", "")
            if await connection.get("/health/ready") == 200:
                return True
        except OSError:
            pass
        await asyncio.sleep(0.1)
    return False


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def show(console: Console, mode: str, options: argparse.Namespace, best: Round) -> dict[str, Any]:
    """Print a round; returns its numbers for the report."""
    table = Table(
        title=f"{mode}: {options.rate} reads/s, {options.jobs:,} jobs, best of {options.rounds} rounds"
    )
    for heading in ("read", "number", "p50 ms", "p99 ms", "slowest ms"):
        table.add_column(heading, justify="left" if heading == "read" else "right")
    kept = {}
    for name, values in [*best.latencies.items(), ("all", best.all)]:
        numbers = [percentile(values, 50), percentile(values, 99), max(values)]
        table.add_row(name, str(len(values)), *(f"{number:.1f}" for number in numbers))
        kept[name] = dict(zip(("p50_ms", "p99_ms", "max_ms"), numbers, strict=True))
    console.print(table)
    console.print(f"{best.cpu_us_per_request:.0f} µs of CPU a request, {best.peak_mib:.0f} MiB")
    return {**kept, "cpu_us_per_request": best.cpu_us_per_request, "peak_mib": best.peak_mib}


if __name__ == "__main__":
    main()
