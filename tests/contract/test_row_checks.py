"""The comparison of the read models with the log, piece by piece, on SQLite and Postgres alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.ports import Database, EventLog, NewEvent
from coordinator.domain.job import JobCanceled
from coordinator.domain.miner import miner_stream
from coordinator.projections import checks
from coordinator.projections.checks import ReadModelChecks
from coordinator.projections.projector import Projector
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.postgres import PostgresDatabase
from coordinator.storage.tables.sqlite import SqliteDatabase
from tests.harness import deciding
from tests.harness.metadata import METADATA


@pytest.fixture(params=["sqlite", "postgres"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[EventLog, Database]]:
    if request.param == "sqlite":
        path = tmp_path / "coordinator.db"
        migrate(path)
        log: Any = SqliteEventLog(path)
        database: Any = SqliteDatabase(path)
    else:
        url = request.getfixturevalue("database_url")
        migrate(url)
        log, database = PostgresEventLog(url), PostgresDatabase(url)
    yield log, database
    log.close()
    database.close()


def add_jobs(log: EventLog, first: int, count: int) -> None:
    """So many jobs, each submitted and canceled."""
    for n in range(first, first + count):
        job_id = UUID(int=n + 1)
        submitted = deciding.submitted().model_copy(update={"job_id": job_id})
        canceled = JobCanceled(at=5, by="alice", job_id=job_id, client="alice", attempt=1, reason="")
        log.append([NewEvent(job_id, 1, submitted, METADATA), NewEvent(job_id, 2, canceled, METADATA)])


def project(log: EventLog, database: Database) -> None:
    """Fold everything that is new into the tables."""
    projector = Projector()
    with database.transaction() as tables:
        before = tables.position(projector.name)
        events = log.read(before, 10_000)
        projector.apply(tables, events)
        tables.move(projector.name, before, events[-1].position)


def test_equal_tables_are_found_equal_in_pieces(
    stored: tuple[EventLog, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look compares the next events; events that are not projected yet have to wait."""
    monkeypatch.setattr(checks, "PIECE", 8)
    log, database = stored
    registered = deciding.registered()
    log.append([NewEvent(miner_stream(registered.miner_id), 1, registered, METADATA)])
    add_jobs(log, 0, 10)
    project(log, database)
    end = log.head()
    row_checks = ReadModelChecks(log, database, lambda: 7)
    first = row_checks.advance()
    assert (first.begun_at, first.differences, first.at) == (0, (), 7)
    assert 0 < first.checked_to < end
    assert first.rows > 0
    add_jobs(log, 10, 3)
    for _ in range(5):
        last = row_checks.advance()
    assert (last.checked_to, last.differences) == (end, ())
    project(log, database)
    assert row_checks.advance().checked_to > end


@pytest.mark.parametrize(
    ("table", "change", "told"),
    [
        ("jobs", {"state": "COMPLETED"}, "differs in state"),
        ("jobs", {"client": "mallory", "error_code": None}, "differs in client, error_code"),
        ("jobs", None, "the log has it, the table does not"),
    ],
)
def test_a_changed_row_is_named(
    stored: tuple[EventLog, Database], table: str, change: dict[str, Any] | None, told: str
) -> None:
    """The key, the columns and the position; other rows are compared all the same."""
    log, database = stored
    add_jobs(log, 0, 5)
    project(log, database)
    spoilt = str(UUID(int=3))
    with database.transaction() as tables:
        if change is None:
            tables.remove(table, [spoilt])
        else:
            tables.change(table, {spoilt: change})
    found = ReadModelChecks(log, database, lambda: 0).advance()
    [difference] = found.differences
    assert difference.startswith(f"{table} {spoilt}: {told} (position ")
    assert found.rows == 5
