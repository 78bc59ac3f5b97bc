"""Over HTTP: whole jobs, single requests, submits by connections, and polls that wait; in both modes.

A whole job is four requests: submit, poll, result, read; or two, the fewest: a submit that is answered with
the result, and a poll that hands in the last one. Sixteen clients and sixteen miner loops make them, in this
process. Its CPU time is shown, but not part of a job's. The miner loops sign their results as our
miner does.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.http_client import HttpClient
from bench.http_work import LOOPS, US, Work, percentile
from bench.meter import Meter, cpu_seconds
from bench.processes import Process, environment
from bench.servers import Endpoints, Servers
from bench.systems import FOLDER, PROGRAM, wait_ready
from coordinator.dev.servers.processes import free_port

SUBMIT_CONNECTIONS: Final = (1, 8, 64)
REQUEST_CONNECTIONS: Final = 8
OWN: Final = "clients and miners"


@dataclass(frozen=True, slots=True)
class HttpPlan:
    """The amounts of a measurement."""

    rounds: int
    """Of whole jobs; shown are medians."""
    jobs: int
    requests: int
    """Of each kind, over REQUEST_CONNECTIONS connections."""
    submits: int
    """Of each number of connections."""
    miners: int
    """That poll."""
    poll_seconds: float
    """The length of a poll without work. Idle polls are measured for so long: each ends and begins once."""
    seconds: float
    """Of polls with POLL_RATE jobs a second."""


FULL: Final = HttpPlan(
    rounds=3, jobs=2_000, requests=4_000, submits=1_500, miners=2_000, poll_seconds=30.0, seconds=10.0
)
QUICK: Final = HttpPlan(
    rounds=1, jobs=300, requests=500, submits=200, miners=200, poll_seconds=5.0, seconds=3.0
)


def measure(servers: Servers, plan: HttpPlan, tell: Callable[[str], None]) -> dict[str, Any]:
    """The figures of both modes, by mode."""
    found: dict[str, Any] = {}
    bare = _bare_endpoint(plan)
    for mode in ("standard", "embedded"):
        with (
            tempfile.TemporaryDirectory(prefix="coordinator-bench-http-") as folder,
            servers.endpoints(None) as endpoints,
            _coordinator(endpoints if mode == "standard" else None, Path(folder)) as running,
        ):
            used = servers.trees if mode == "standard" else {}
            trees = {name: tree for name, tree in used.items() if name != "redis"}
            f = found[mode] = uvloop.run(_figures(running, trees, plan))
            f["requests"]["a bare FastAPI endpoint"] = bare
            few = f["fewest_requests"]
            tell(
                f"http, {mode}: {f['jobs_per_second']:,.0f} jobs/s {f['cpu_us_per_job']:,.0f} µs/job, "
                f"in two requests {few['jobs_per_second']:,.0f} and {few['cpu_us_per_job']:,.0f}"
            )
    return found


@dataclass(frozen=True, slots=True)
class _Running:
    port: int
    pid: int
    client_key: str
    miner_key: str


@contextmanager
def _coordinator(endpoints: Endpoints | None, folder: Path) -> Iterator[_Running]:
    port = free_port()
    client_key, miner_key = (f"{name}:{secrets.token_hex(16)}" for name in ("bench", "bench-miner"))
    servers = (
        {}
        if endpoints is None
        else {
            "DATABASE_URL": endpoints.database_url,
            "AMQP_URL": endpoints.amqp_url,
        }
    )
    serve = environment(
        APP_PORT=str(port),
        DATA_DIR=str(folder / "data"),
        CLIENT_API_KEYS=client_key,
        MINER_API_KEYS=miner_key,
        LOG_LEVEL="warning",
        # One address and one key have the polls of all miners.
        MAX_CONNECTIONS="10000",
        MAX_CONNECTIONS_PER_ADDRESS="0",
        MAX_CONNECTIONS_PER_KEY="0",
        **servers,
    )
    with ExitStack() as stack:
        process = stack.enter_context(Process("coordinator", [*PROGRAM, "serve"], serve, folder))
        wait_ready(f"http://127.0.0.1:{port}", process)
        yield _Running(port, process.pid, client_key, miner_key)


async def _figures(running: _Running, servers: Mapping[str, int], plan: HttpPlan) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        client, miner = [
            await stack.enter_async_context(HttpClient(running.port, key))
            for key in (running.client_key, running.miner_key)
        ]
        work = Work(client, miner)
        await work.whole(LOOPS * 4)  # uncounted: the miners earn their slots
        trees = {"coordinator": running.pid, **servers}
        rounds: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for _ in range(plan.rounds):
            for fewest, measured in rounds.items():
                measured.append(await _round(work, trees, plan.jobs, fewest=fewest))
        requests = await _requests(work, client, running.pid, plan)
        submits = {str(n): await work.submits(plan.submits, n, running.pid) for n in SUBMIT_CONNECTIONS}
        polls = await work.polls(plan.miners, plan.poll_seconds, plan.seconds, running.pid)
    return {
        **_medians(rounds[False]),
        "fewest_requests": _medians(rounds[True]),
        "requests": requests,
        "submits": submits,
        "polls": polls,
    }


def _medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cpu = {name: _median(each["cpu_us"][name] for each in rounds) for name in rounds[0]["cpu_us"]}
    return {
        "jobs_per_second": _median(each["jobs_per_second"] for each in rounds),
        "cpu_us_per_job": round(sum(spent for name, spent in cpu.items() if name != OWN), 1),
        "cpu_us_by_process": cpu,
        "p50_ms": _median(each["p50_ms"] for each in rounds),
        "p99_ms": _median(each["p99_ms"] for each in rounds),
    }


async def _round(work: Work, trees: Mapping[str, int], jobs: int, *, fewest: bool) -> dict[str, Any]:
    meter, own, begun = Meter(trees), time.process_time(), time.perf_counter()
    latencies = await work.whole(jobs, fewest=fewest)
    seconds = time.perf_counter() - begun
    cpu = {name: spent / jobs * US for name, spent in meter.cpu_seconds().items()}
    return {
        "jobs_per_second": jobs / seconds,
        "cpu_us": {**cpu, OWN: (time.process_time() - own) / jobs * US},
        "p50_ms": percentile(latencies, 50),
        "p99_ms": percentile(latencies, 99),
    }


async def _requests(work: Work, client: HttpClient, pid: int, plan: HttpPlan) -> dict[str, float]:
    """CPU time of the coordinator for one request of a kind, in microseconds."""
    job_id = work.last_completed
    paths = {
        "/health/live": "/health/live",
        "a completed job": f"/v1/jobs/{job_id}",
        "its result": f"/v1/jobs/{job_id}/result",
    }
    return {name: await _cost(client, path, pid, plan.requests) for name, path in paths.items()}


async def _cost(client: HttpClient, path: str, pid: int, count: int) -> float:
    left = iter(range(count))

    async def ask() -> None:
        for _ in left:
            await client.get(path)

    before = cpu_seconds(pid)
    await asyncio.gather(*(ask() for _ in range(REQUEST_CONNECTIONS)))
    return round((cpu_seconds(pid) - before) / count * US, 1)


def _bare_endpoint(plan: HttpPlan) -> float:
    """The cost of a request to an endpoint that does nothing, on the same server."""
    port = free_port()
    command = [sys.executable, "-m", "bench.bare_endpoint", str(port)]
    env = environment(PYTHONPATH=str(FOLDER.parent))

    async def cost(pid: int) -> float:
        async with HttpClient(port, "") as client:
            return await _cost(client, "/health", pid, plan.requests)

    with tempfile.TemporaryDirectory() as folder, Process("bare", command, env, Path(folder)) as process:
        wait_ready(f"http://127.0.0.1:{port}", process)
        return uvloop.run(cost(process.pid))


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 1)
