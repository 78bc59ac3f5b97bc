"""Fills a log with completed jobs, through the append that the bus uses.

A few real jobs run first. Their events and payloads are then appended repeatedly under new ids, a thousand
jobs a transaction: so the jobs are real, without the time of the work itself. (A statement keeps the
signature of its template; nothing here checks it.)
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg

from bench.processes import Failed
from bench.servers import Servers
from bench.systems import OURS, start_coordinator, wait_ready
from coordinator.application.ports import NewEvent, Recorded, StoredPayload
from coordinator.domain.job import JobSubmitted
from coordinator.projections.derived import rebuilding
from coordinator.runtime.process.garbage_collection import collecting_rarely
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.tables.postgres import PostgresDatabase

TEMPLATES = 50
JOBS_AT_ONCE = 1000
READ_EVENTS = 1000
HEARTBEAT_SECONDS = 90.0
CATCH_UP_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Filled:
    """The cost to fill a log, and to fold it."""

    jobs: int
    events: int
    append_seconds: float
    rebuild_seconds: float
    database_mib: float


def fill(servers: Servers, database_url: str, jobs: int) -> Filled:
    """Put `jobs` completed jobs into the log, rebuild all derived tables, and let every follower read it."""
    run_templates(servers, database_url)
    log = PostgresEventLog(database_url)
    database = PostgresDatabase(database_url, durable=False)
    try:
        templates = read_templates(log)
        begun = time.perf_counter()
        for start in range(len(templates), jobs, JOBS_AT_ONCE):
            append_copies(log, templates, min(JOBS_AT_ONCE, jobs - start))
        appended = time.perf_counter()
        with collecting_rarely():
            events = rebuilding.rebuild_all(log, database, HEARTBEAT_SECONDS, lambda position, head: None)
        rebuilt = time.perf_counter()
        skip_to_head(database, log.head())
        catch_up(servers, database_url, log, database)
    finally:
        log.close()
        database.close()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")  # the server would do it by itself later
        size = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert size is not None
    return Filled(jobs, events, appended - begun, rebuilt - appended, size[0] / 2**20)


def run_templates(servers: Servers, database_url: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder,
        servers.endpoints(database_url) as endpoints,
        OURS.run(endpoints, Path(folder)) as running,
    ):
        running.client.burst(TEMPLATES)


def catch_up(servers: Servers, database_url: str, log: PostgresEventLog, database: PostgresDatabase) -> None:
    """Run a coordinator until all of its followers have read the log.

    It is ready before the notary has hashed each event, which would be part of every turn otherwise.
    """
    with (
        tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder,
        servers.endpoints(database_url) as endpoints,
    ):
        coordinator, url, _, _ = start_coordinator(OURS, endpoints, Path(folder))
        with coordinator:
            wait_ready(url, coordinator, CATCH_UP_SECONDS)
            until = time.monotonic() + CATCH_UP_SECONDS
            while lag(log, database):
                if time.monotonic() > until:
                    raise Failed("the followers did not read the log in time")
                time.sleep(1.0)


def lag(log: PostgresEventLog, database: PostgresDatabase) -> int:
    """The positions that the notary is behind the log."""
    with database.transaction() as tables:
        return log.head() - tables.position("notary")


@dataclass(frozen=True, slots=True)
class Template:
    """One real job, to be copied."""

    events: Sequence[Recorded]
    payloads: Sequence[StoredPayload]


def read_templates(log: PostgresEventLog) -> list[Template]:
    recorded: list[Recorded] = []
    while page := log.read(recorded[-1].position if recorded else 0, READ_EVENTS):
        recorded += page
    job_ids = [r.stream for r in recorded if isinstance(r.event, JobSubmitted)]
    streams = log.load(job_ids)
    kinds = [log.payloads("payload", job_ids), log.payloads("result", job_ids)]
    return [Template(streams[job_id], [kind[job_id] for kind in kinds]) for job_id in job_ids]


def append_copies(log: PostgresEventLog, templates: Sequence[Template], count: int) -> None:
    events: list[NewEvent] = []
    payloads: list[StoredPayload] = []
    for number in range(count):
        template, job_id = templates[number % len(templates)], uuid4()
        events += [NewEvent(job_id, r.version, renamed(r, job_id), r.metadata) for r in template.events]
        payloads += [payload._replace(job_id=job_id) for payload in template.payloads]
    log.append(events, payloads)


def renamed(recorded: Recorded, job_id: UUID) -> Any:
    return recorded.event.model_copy(update={"job_id": job_id})


def skip_to_head(database: PostgresDatabase, head: int) -> None:
    """Move the publisher, which has no tables, to the head."""
    with database.transaction() as tables:
        tables.move("publisher", tables.position("publisher"), head)
