"""The two measurements: a burst of jobs, and single jobs at a steady rate."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import aio_pika
import psycopg

from bench.meter import Meter
from bench.stage import Stage
from coordinator.client.amqp_rpc import AmqpRpc

MAX_OPEN = 4000  # submits under way at once; more only lengthens queues
JOB_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Burst:
    """`jobs` submitted as fast as one client can, until every result is readable."""

    jobs: int
    seconds: float
    jobs_per_second: float
    cpu_us_per_job: dict[str, float]
    cpu_us_total: float
    rss_mib: dict[str, float]


@dataclass(frozen=True, slots=True)
class Steady:
    """Single jobs at `rate` a second: from submit to the news of the completion, milliseconds."""

    rate: int
    p50_ms: float
    p99_ms: float


async def burst(stage: Stage, jobs: int) -> Burst:
    connecting = psycopg.AsyncConnection.connect(stage.database_url, autocommit=True)
    async with AmqpRpc(stage.amqp_url, stage.client_key) as rpc, await connecting as database:
        before = await _receipts(database)
        meter = Meter(stage.trees)
        begun = time.perf_counter()
        gate = asyncio.Semaphore(MAX_OPEN)

        async def one(number: int) -> None:
            async with gate:
                command = {
                    "service": "checksum",
                    "payload": {"text": f"job {number}"},
                    "idempotency_key": f"{begun}-{number}",
                }
                answer = await rpc.call("job.submit", command)
                assert answer["status"] == "accepted", answer

        await asyncio.gather(*(one(n) for n in range(jobs)))
        async with asyncio.timeout(JOB_SECONDS):
            while await _receipts(database) < before + jobs:  # noqa: ASYNC110 - a table has no event
                await asyncio.sleep(0.1)
        seconds = time.perf_counter() - begun
        cpu = {name: spent / jobs * 1e6 for name, spent in meter.spent().items()}
        rss = meter.rss()
    return Burst(
        jobs=jobs,
        seconds=round(seconds, 2),
        jobs_per_second=round(jobs / seconds, 1),
        cpu_us_per_job={name: round(value, 1) for name, value in cpu.items()},
        cpu_us_total=round(sum(cpu.values()), 1),
        rss_mib={name: round(value, 1) for name, value in rss.items()},
    )


async def steady(stage: Stage, rate: int = 50, jobs: int = 400) -> Steady:
    completed: dict[str, float] = {}
    submitted: dict[str, float] = {}
    all_done = asyncio.Event()

    def on_event(message: Any) -> None:
        now = time.perf_counter()
        for element in json.loads(message.body):
            completed[element["event"]["job_id"]] = now
        if len(submitted) == jobs and submitted.keys() <= completed.keys():
            all_done.set()

    connection = await aio_pika.connect(stage.amqp_url)
    async with connection, AmqpRpc(stage.amqp_url, stage.client_key) as rpc:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind("coordinator.events", "job.completed.#")
        await queue.consume(on_event, no_ack=True)
        next_at = time.perf_counter()

        async def one(number: int) -> None:
            at = time.perf_counter()
            command = {"service": "checksum", "payload": {"text": f"steady {number}"}}
            answer = await rpc.call("job.submit", command)
            submitted[answer["job_id"]] = at
            if len(submitted) == jobs and submitted.keys() <= completed.keys():
                all_done.set()

        tasks = []
        for number in range(jobs):
            tasks.append(asyncio.create_task(one(number)))
            next_at += 1 / rate
            await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
        await asyncio.gather(*tasks)
        async with asyncio.timeout(30):
            await all_done.wait()
    times = sorted((completed[job] - at) * 1000 for job, at in submitted.items())
    return Steady(rate, round(times[len(times) // 2], 2), round(times[int(len(times) * 0.99)], 2))


async def _receipts(database: psycopg.AsyncConnection[Any]) -> int:
    """Jobs whose result can be read: the projector writes a job's row and its receipt in one transaction, and
    the result itself was stored with the event before."""
    rows = await database.execute("SELECT count(*) FROM receipts")
    found = await rows.fetchone()
    return int(found[0]) if found else 0


def as_dict(measured: Burst | Steady) -> dict[str, Any]:
    return asdict(measured)
