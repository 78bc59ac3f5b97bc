"""Fill a log with completed jobs, through the append that the bus uses.

A few real jobs are run first. Their events and documents are then appended again and again under new ids, a
thousand jobs a transaction: so many jobs as they are, without the time that the work itself would take. (A
receipt's signature is that of its model; nothing here looks at it.)
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

from bench.servers import Servers
from bench.systems import OURS
from coordinator.application.ports import NewEvent, Recorded, StoredPayload
from coordinator.domain.job import JobCompleted, JobSubmitted
from coordinator.projections import projector
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.tables.postgres import PostgresDatabase

MODELS = 50
JOBS_AT_ONCE = 1000
READ_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class Filled:
    """What it took to fill a log, and to fold it."""

    jobs: int
    events: int
    append_seconds: float
    rebuild_seconds: float
    database_mib: float


def fill(servers: Servers, database_url: str, jobs: int) -> Filled:
    """Have `jobs` completed jobs in the log, and every follower at its end."""
    run_models(servers, database_url)
    log = PostgresEventLog(database_url)
    database = PostgresDatabase(database_url, durable=False)
    try:
        models = read_models(log)
        begun = time.perf_counter()
        for start in range(len(models), jobs, JOBS_AT_ONCE):
            append_copies(log, models, min(JOBS_AT_ONCE, jobs - start))
        appended = time.perf_counter()
        events = projector.rebuild(log, database, lambda position, head: None)
        rebuilt = time.perf_counter()
        skip_to_head(database, log.head())
    finally:
        log.close()
        database.close()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")  # as the server would do by itself, later
        size = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert size is not None
    return Filled(jobs, events, appended - begun, rebuilt - appended, size[0] / 2**20)


def run_models(servers: Servers, database_url: str) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="coordinator-bench-") as folder,
        servers.place(database_url) as place,
        OURS.run(place, Path(folder)) as running,
    ):
        running.client.burst(MODELS)


@dataclass(frozen=True, slots=True)
class Model:
    """One real job."""

    events: Sequence[Recorded]
    documents: Sequence[StoredPayload]


def read_models(log: PostgresEventLog) -> list[Model]:
    recorded: list[Recorded] = []
    while page := log.read(recorded[-1].position if recorded else 0, READ_EVENTS):
        recorded += page
    job_ids = [r.stream for r in recorded if isinstance(r.event, JobSubmitted)]
    streams = log.load(job_ids)
    kinds = [log.payloads("payload", job_ids), log.payloads("result", job_ids)]
    return [Model(streams[job_id], [kind[job_id] for kind in kinds]) for job_id in job_ids]


def append_copies(log: PostgresEventLog, models: Sequence[Model], count: int) -> None:
    events: list[NewEvent] = []
    documents: list[StoredPayload] = []
    for number in range(count):
        model, job_id = models[number % len(models)], uuid4()
        events += [NewEvent(job_id, r.version, renamed(r, job_id), r.metadata) for r in model.events]
        documents += [document._replace(job_id=job_id) for document in model.documents]
    log.append(events, documents)


def renamed(recorded: Recorded, job_id: UUID) -> Any:
    changes: dict[str, Any] = {"job_id": job_id}
    if isinstance(recorded.event, JobCompleted):
        receipt = {**recorded.event.receipt, "job_id": str(job_id), "receipt_id": uuid4().hex}
        changes["receipt"] = receipt
    return recorded.event.model_copy(update=changes)


def skip_to_head(database: PostgresDatabase, head: int) -> None:
    """The other followers have nothing to do for jobs that are over: they would only read past them."""
    with database.transaction() as tables:
        for name in ("dispatcher", "publisher", "timers"):
            tables.move(name, tables.position(name), head)
