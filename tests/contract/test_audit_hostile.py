"""The auditor on a database whose owner wants to mislead or to stop it."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator.audit.run import AuditOptions, BadAuditState, audit
from coordinator.audit.sources.database import open_sqlite
from coordinator.crypto.log.checkpoint import Checkpoint, sign_checkpoint
from coordinator.domain.job import JobCompleted, JobSubmitted, statement_of
from coordinator.projections import projector
from coordinator.storage.connections.data_directory import DATABASE_FILE
from tests.contract.test_audit import KEYS, nobody, of_topic, put_state, renotarize
from tests.harness import decided_log
from tests.harness.cases import every
from tests.harness.notarizing import KEY, ORIGIN, NotarizedLog

JOBS = 200
"""Enough for several tiles of leaves."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a good log, its read models and its checkpoints."""
    folder = tmp_path_factory.mktemp("good")
    log = NotarizedLog(str(folder / DATABASE_FILE), folder / "checkpoint")
    decided_log.write(log.log, JOBS)
    projector.rebuild(log.log, log.database, nobody)
    asyncio.run(log.follow(log.notary()))
    log.close()
    return folder


def changed(good: Path, folder: Path, *statements: str) -> Path:
    shutil.copy(good / DATABASE_FILE, folder / DATABASE_FILE)
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db, db:
        for statement in statements:
            db.execute(statement)
    return folder


def run(folder: Path, **options: Any) -> Any:
    with open_sqlite(folder / DATABASE_FILE) as source:
        return audit(source, AuditOptions(KEYS, processes=0, **options), nobody)


def test_a_statement_does_not_replace_facts(good: Path, tmp_path: Path) -> None:
    """A result that was changed by the holder of database and key is not covered by its old statement."""
    with closing(sqlite3.connect(changed(good, tmp_path) / DATABASE_FILE)) as db, db:
        position, state = of_topic(db, "job.completed.v1", 20)
        statement = {**state["statement"], "result_digest": state["result_digest"]}
        forged = {**state, "result_digest": "0" * 64, "statement": statement}
        put_state(db, position, forged)
        db.execute("DELETE FROM payloads WHERE kind = 'result'")
        db.execute(
            "UPDATE jobs SET result_digest = ? WHERE job_id = ?", (forged["result_digest"], forged["job_id"])
        )
        renotarize(db, KEY)
        [(submitted,)] = db.execute(
            "SELECT state FROM stored_events WHERE originator_id = ? AND originator_version = 1",
            (UUID(state["job_id"]).hex,),
        )
    found = run(tmp_path).divergence
    assert found is not None
    assert ("statement", position) == (found.kind, found.position)
    # Nor does the receipt that is made from this event.
    completed = JobCompleted.model_validate_json(json.dumps(forged))
    whole = statement_of(JobSubmitted.model_validate_json(submitted), completed)
    assert "0" * 64 == whole["result_digest"]


TYPES = {
    # a column of an event, and a value that the program never stores there
    "state": "CAST(state AS TEXT)",
    "metadata": "5",
    "originator_version": "'x'",
    "originator_version ": "1.5",
    "originator_id": "'junk'",
    "originator_id ": "x'00'",
    "topic": "x'00'",
    "topic ": "CAST(x'ff' AS TEXT)",
}


@every("column", TYPES)
def test_a_value_of_another_type_is_named(column: str, good: Path, tmp_path: Path) -> None:
    """SQLite stores any type in any column; the auditor names the event, and does not fail."""
    statement = f"UPDATE stored_events SET {column.strip()} = {TYPES[column]} WHERE rowid = 700"
    found = run(changed(good, tmp_path, statement)).divergence
    assert found is not None
    assert ("event", 700) == (found.kind, found.position)


TABLES: dict[str, tuple[str, str]] = {
    # name: the change, the kind
    "a deep document": ("UPDATE jobs SET constraints_json = '" + "[" * 20_000 + "'", "row"),
    "text that is not UTF-8": ("UPDATE jobs SET state = CAST(x'ff' AS TEXT)", "row"),
    "no text": ("UPDATE payloads SET body = 5", "payload"),
    "no bytes": ("UPDATE payloads SET salt = 'x'", "payload"),
    "a blob without a digest": (
        'UPDATE payloads SET body = CAST(\'{"blob":"evil"}\' AS BLOB)',
        "payload",
    ),
    "a tile gone": ("DELETE FROM merkle_tiles WHERE level = 0 AND tile = 1", "leaf"),
    "a tile of text": ("UPDATE merkle_tiles SET hashes = 'x' WHERE level = 0", "leaf"),
    "positions cut off": ("UPDATE merkle_tiles SET positions = x'0001' WHERE level = 0", "leaf"),
    "a note that is none": ("UPDATE checkpoints SET note = x'00'", "checkpoint"),
    "a size that is none": ("UPDATE checkpoints SET size = 'x' WHERE size < 1000", "checkpoint"),
    "a negative size": ("UPDATE checkpoints SET size = -1 WHERE size < 1000", "checkpoint"),
    "read models ahead of the log": ("UPDATE positions SET position = 1000000", "row"),
    "a position of text": ("UPDATE positions SET position = 'x'", "row"),
}


@every("name", TABLES)
def test_a_table_of_strange_values_is_named(name: str, good: Path, tmp_path: Path) -> None:
    """Whatever a table holds, the auditor names what differs, and does not fail."""
    statement, kind = TABLES[name]
    found = run(changed(good, tmp_path, statement)).divergence
    assert found is not None
    assert kind == found.kind


def test_a_deep_signing_key_is_named(good: Path, tmp_path: Path) -> None:
    """An event that is too deep for any parser is named, also if it should introduce a key."""
    deep = 'UPDATE stored_events SET state = CAST(\'{"key_id":' + "[" * 200_000 + "' AS BLOB) WHERE rowid = 1"
    found = run(changed(good, tmp_path, deep)).divergence
    assert found is not None
    assert ("event", 1) == (found.kind, found.position)


def test_a_row_is_named_by_its_own_event(good: Path, tmp_path: Path) -> None:
    """A row that differs is reported at the position of the job's last event, whenever it is compared."""
    with closing(sqlite3.connect(good / DATABASE_FILE)) as db:
        [(position,)] = db.execute("SELECT position FROM jobs ORDER BY position LIMIT 1")
    found = run(changed(good, tmp_path, "UPDATE jobs SET client = 'mallory'")).divergence
    assert found is not None
    assert ("row", position) == (found.kind, found.position)


def test_checkpoints_count_without_their_origin(good: Path, tmp_path: Path) -> None:
    """Checkpoints are verified although the row of their origin is gone."""
    spoilt = sign_checkpoint(KEY, Checkpoint(ORIGIN, 500, b"\x01" * 32)).text
    folder = changed(
        good,
        tmp_path,
        "DELETE FROM log_origins",
        f"UPDATE checkpoints SET note = '{spoilt}', size = 500 WHERE size < 1000",
    )
    found = run(folder).divergence
    assert found is not None
    assert "root" == found.kind


def test_an_earlier_audit_knows_its_checkpoint(good: Path, tmp_path: Path) -> None:
    """A log that was signed again with other roots is found by the state of an earlier audit."""
    state = tmp_path / "audit.gz"
    folder = changed(good, tmp_path)
    assert run(folder, state=state).divergence is None
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db, db:
        position, event = of_topic(db, "job.canceled.v1", 5)
        put_state(db, position, {**event, "reason": "nothing happened"})
        renotarize(db, KEY)
    found = run(folder, state=state).divergence
    assert found is not None
    assert "root" == found.kind


@every("state", ["{}", '{"format": "coordinator audit 1"}', "[" * 100_000, "null"])
def test_a_spoilt_state_is_refused(state: str, good: Path, tmp_path: Path) -> None:
    """A file that is not the state of an audit is refused by name."""
    file = tmp_path / "audit.gz"
    file.write_bytes(gzip.compress(state.encode()))
    with pytest.raises(BadAuditState):
        run(good, state=file)
