"""The auditor on a log of a thousand jobs: clean as it is, and each change of it found and named."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr

from coordinator.application.followers.eraser import Eraser
from coordinator.application.ports import Clock, NewEvent
from coordinator.audit.content import check_erasure
from coordinator.audit.entries import KINDS, Found
from coordinator.audit.run import AuditOptions, AuditReport, BadAuditState, audit
from coordinator.audit.sources.database import open_postgres, open_sqlite
from coordinator.audit.sources.export import BadFile, open_export
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.log.checkpoint import Checkpoint, sign_checkpoint
from coordinator.crypto.log.leaf import hash_of
from coordinator.crypto.log.tiles import Tile, TreeEdge
from coordinator.crypto.merkle import root_of
from coordinator.crypto.statement import sign_statement
from coordinator.domain.content import ContentErased, content_stream
from coordinator.projections import projector
from coordinator.runtime.log_transfer import export_log, import_log
from coordinator.runtime.settings import Settings
from coordinator.storage.connections.data_directory import DATABASE_FILE
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.tables.sqlite import SqliteDatabase
from tests.harness import decided_log
from tests.harness.cases import every
from tests.harness.decided_log import COORDINATOR
from tests.harness.deciding import T0
from tests.harness.metadata import METADATA
from tests.harness.notarizing import KEY, ORIGIN, NotarizedLog

JOBS = 1000
EVENTS = 4107
KEYS = [COORDINATOR.key_id]


def nobody(done: int, total: int) -> None:
    """A progress that nobody looks at."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a good log of a thousand jobs, its read models and its checkpoints."""
    assert KEY.key_id == COORDINATOR.key_id
    folder = tmp_path_factory.mktemp("good")
    folder.chmod(0o700)
    log = NotarizedLog(str(folder / DATABASE_FILE), folder / "checkpoint")
    decided_log.write(log.log, JOBS)
    projector.rebuild(log.log, log.database, nobody)
    asyncio.run(log.follow(log.notary()))
    log.close()
    return folder


def run(folder: Path, trusted: list[str] | None = KEYS, **options: Any) -> AuditReport:
    with open_sqlite(folder / DATABASE_FILE) as source:
        return audit(source, AuditOptions(trusted, processes=0, **options), nobody)


# --- a good log --------------------------------------------------------------------------------------------
def test_a_good_log_is_clean(good: Path) -> None:
    """Every event, statement, checkpoint and row of a good log is counted, and nothing diverges."""
    report = run(good)
    assert report.divergence is None
    assert (EVENTS, EVENTS, 700) == (report.events, report.position, report.signatures)
    assert JOBS + 2 + 2 == report.rows
    assert 5 == report.checkpoints
    assert report.checkpoint is not None
    assert (ORIGIN, EVENTS) == (report.checkpoint.origin, report.checkpoint.size)


def test_the_same_on_postgres_and_in_a_file(good: Path, database_url: str, tmp_path: Path) -> None:
    """The log audits clean wherever it is moved to: in a file, and imported into Postgres."""
    moved = Settings(
        data_dir=tmp_path,
        database_url=SecretStr(database_url),
        amqp_url=SecretStr("amqp://127.0.0.1:1/unused"),
        _env_file=None,
    )
    file = tmp_path / "all.gz"
    export_log(Settings(data_dir=good, _env_file=None), file, whole=True, progress=nobody)
    import_log(moved, file, nobody)
    with open_postgres(database_url) as source:
        there = audit(source, AuditOptions(KEYS, processes=0), nobody)
    with open_export(file) as source:
        in_file = audit(source, AuditOptions(KEYS, processes=0), nobody)
    here = run(good)
    assert None is there.divergence is in_file.divergence
    same = ("events", "position", "signatures", "checkpoints", "checkpoint", "open_jobs")
    facts = [[getattr(report, name) for name in same] for report in (here, there, in_file)]
    assert facts[0] == facts[1] == facts[2]
    assert here.rows == there.rows

    # The same changes are found there.
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE jobs SET client = 'mallory' WHERE job_id = " + LATE)
        connection.execute(
            "UPDATE payloads SET body = '{}' WHERE kind = 'result' AND body LIKE '%999%'::bytea"
        )
    with open_postgres(database_url) as source:
        changed = audit(source, AuditOptions(KEYS, processes=0), nobody)
    assert changed.divergence is not None
    assert changed.divergence.kind in ("row", "payload")

    spoilt = tmp_path / "spoilt.gz"
    lines = gzip.decompress(file.read_bytes()).split(b"\n")
    spoilt.write_bytes(gzip.compress(b"\n".join([*lines[:100], *lines[101:]])))
    with open_export(spoilt) as source, pytest.raises(BadFile, match="was changed"):
        audit(source, AuditOptions(KEYS, processes=0), nobody)


def test_an_audit_goes_on_from_the_last_one(good: Path, tmp_path: Path) -> None:
    """With a state, only new events are read; a clean log gives the same end, and a changed past is found."""
    folder, state = tmp_path / "copy", tmp_path / "audit.gz"
    shutil.copytree(good, folder)
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db, db:
        for table in ("stored_events", "checkpoints", "merkle_tiles"):
            db.execute(f"CREATE TEMP TABLE kept_{table} AS SELECT rowid AS id, * FROM {table}")
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db, db:
        db.execute("UPDATE positions SET position = 0")  # the rows are not compared here
        later = db.execute("SELECT * FROM stored_events WHERE rowid > 2000").fetchall()
        notes = db.execute("SELECT * FROM checkpoints WHERE position > 2000").fetchall()
        db.execute("DELETE FROM stored_events WHERE rowid > 2000")
        db.execute("DELETE FROM checkpoints WHERE position > 2000")
        db.execute("DELETE FROM merkle_tiles")
    first = run(folder, state=state, rows=False)
    assert (None, 2000) == (first.divergence, first.position)
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db, db:
        db.executemany("INSERT INTO stored_events VALUES (?,?,?,?,?,?)", later)
        db.executemany("INSERT INTO checkpoints VALUES (?,?,?,?,?,?)", notes)
    second = run(folder, state=state, rows=False)
    assert (None, 2000, EVENTS - 2000) == (second.divergence, second.from_position, second.events)
    assert run(good).checkpoint == second.checkpoint

    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db, db:
        db.execute("DELETE FROM checkpoints WHERE size > 3000")
    rolled_back = run(folder, state=state, rows=False).divergence
    assert rolled_back is not None
    assert ("rollback", EVENTS, 3000) == (rolled_back.kind, rolled_back.expected, rolled_back.found)
    state.write_bytes(b"no state")
    with pytest.raises(BadAuditState):
        run(folder, state=state)


def test_the_page_has_each_kind() -> None:
    """docs/auditor.md has the same kinds of divergence, with the same words, as the auditor."""
    page = (Path(__file__).parents[2] / "docs" / "auditor.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert KINDS == {name.strip("`"): text for name, text in rows if not name.startswith("`--")}


# --- erasures ----------------------------------------------------------------------------------------------
def erased(folder: Path, of: Sequence[UUID], **changes: Any) -> None:
    """Append an erasure of the results of these jobs, whatever the rules say; nothing carries it out."""
    ordered = tuple(sorted(of, key=str))
    fields: dict[str, Any] = {"jobs": ordered, "kinds": ("result",), "client": "alice", **changes}
    event = ContentErased(at=T0, by="root", reason="why", **fields)
    stream = content_stream(ordered, ("result",))
    with closing(SqliteEventLog(folder / DATABASE_FILE)) as log:
        version = log.versions([stream]).get(stream, 0) + 1
        log.append([NewEvent(stream, version, event, METADATA)])


def carry_out(folder: Path) -> None:
    """What the eraser does."""
    with (
        closing(SqliteEventLog(folder / DATABASE_FILE)) as log,
        closing(SqliteDatabase(folder / DATABASE_FILE)) as database,
    ):
        eraser = Eraser(log, Clock(now=lambda: T0, monotonic=lambda: 0.0))
        with database.transaction() as tables:
            position = tables.position(eraser.name)
        events = log.read(position, 10_000)
        asyncio.run(eraser.act(events))
        with database.transaction() as tables:
            eraser.apply(tables, events)
            tables.move(eraser.name, position, events[-1].position)


def completed_jobs(folder: Path) -> list[UUID]:
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db:
        rows = db.execute("SELECT job_id FROM jobs WHERE state = 'COMPLETED' ORDER BY job_id").fetchall()
    return [UUID(job_id) for (job_id,) in rows]


def test_an_erasure_explains_what_is_missing(good: Path, tmp_path: Path) -> None:
    """Before and after it is carried out, from the beginning and with a state; and only what it names."""
    folder, state = tmp_path / "copy", tmp_path / "audit.gz"
    shutil.copytree(good, folder)
    jobs = completed_jobs(folder)[300:500]
    assert run(folder, state=state).divergence is None
    erased(folder, jobs)
    assert run(folder).divergence is None
    carry_out(folder)
    assert run(folder).divergence is None
    assert run(folder, state=state).divergence is None
    moved = tmp_path / "log.gz"
    export_log(Settings(data_dir=folder, _env_file=None), moved, whole=False, progress=nobody)
    import_log(Settings(data_dir=tmp_path / "there", _env_file=None), moved, nobody)
    projector_of(tmp_path / "there")
    assert run(tmp_path / "there", content=False).divergence is None
    bare = run(tmp_path / "there").divergence
    assert bare is not None
    assert "erased" == bare.kind

    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db, db:
        db.execute("DELETE FROM payloads WHERE job_id = ? AND kind = 'payload'", (jobs[0].hex,))
    found = run(folder).divergence
    assert found is not None
    assert ("erased", f"the payload of job {jobs[0]}") == (found.kind, found.detail.partition(" is not")[0])


def projector_of(folder: Path) -> None:
    """Fill the read models."""
    with (
        closing(SqliteEventLog(folder / DATABASE_FILE)) as log,
        closing(SqliteDatabase(folder / DATABASE_FILE)) as database,
    ):
        projector.rebuild(log, database, nobody)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"jobs": (UUID(int=7),)}, "stream"),
        ({"client": "bob"}, "client"),
        ({"client": None}, "client"),
        ({"kinds": ("payload",)}, "stream"),
        ({"kinds": ("result", "result")}, "event"),
    ],
)
def test_an_erasure_that_was_not_decided(
    good: Path, tmp_path: Path, changes: dict[str, Any], kind: str
) -> None:
    """Its jobs are known and final, its client is theirs, and its stream is the one of its jobs and kinds."""
    folder = tmp_path / "copy"
    shutil.copytree(good, folder)
    erased(folder, completed_jobs(folder)[:2], **changes)
    found = run(folder).divergence
    assert found is not None
    assert (kind, EVENTS + 1) == (found.kind, found.position)


def test_an_erasure_of_an_unknown_job_and_one_twice(good: Path, tmp_path: Path) -> None:
    """Neither follows from the state before it."""
    for name, jobs, times in (("unknown", [UUID(int=7)], 1), ("twice", completed_jobs(good)[:1], 2)):
        folder = tmp_path / name
        shutil.copytree(good, folder)
        for _ in range(times):
            erased(folder, jobs)
        found = run(folder).divergence
        assert found is not None
        assert ("transition", EVENTS + times) == (found.kind, found.position)


def test_an_erasure_of_a_job_that_is_not_final() -> None:
    """A job under way keeps its payload."""
    job = UUID(int=7)
    event = {"jobs": [str(job)], "kinds": ["payload"], "client": "alice"}
    stream = str(content_stream([job], ["payload"]))
    check_erasure(stream, event, {str(job): "alice"})
    with pytest.raises(Found) as found:
        check_erasure(stream, event, {str(job): None})
    assert "final" == found.value.kind


# --- changes -----------------------------------------------------------------------------------------------
Change = Callable[[sqlite3.Connection], object]


def change_state(position: int, **members: Any) -> Change:
    """Change members of an event."""

    def change(db: sqlite3.Connection) -> None:
        [(state,)] = db.execute("SELECT state FROM stored_events WHERE rowid = ?", (position,))
        put_state(db, position, {**json.loads(state), **members})

    return change


def put_state(db: sqlite3.Connection, position: int, state: Any) -> None:
    text = json.dumps(state, separators=(",", ":"), ensure_ascii=False).encode()
    db.execute("UPDATE stored_events SET state = ? WHERE rowid = ?", (text, position))


def sql(*statements: str) -> Change:
    return lambda db: [db.execute(statement) for statement in statements]


def of_topic(db: sqlite3.Connection, topic: str, number: int = 100) -> tuple[int, dict[str, Any]]:
    """The position and the state of an event of this topic."""
    row = db.execute(
        "SELECT rowid, state FROM stored_events WHERE topic = ? ORDER BY rowid LIMIT 1 OFFSET ?",
        (topic, number),
    ).fetchone()
    return row[0], json.loads(row[1])


def swap_receipts(db: sqlite3.Connection) -> None:
    """Two jobs get each other's bill, times and statement."""
    (one, a), (two, b) = (of_topic(db, "job.completed.v1", n) for n in (100, 107))
    for position, own, other in ((one, a, b), (two, b, a)):
        names = ("units", "price", "started_at", "completed_at", "statement", "result_digest")
        put_state(db, position, {**own, **{name: other[name] for name in names}})
    renotarize(db, KEY)


def resign(db: sqlite3.Connection) -> None:
    """A statement is signed again, with another key, and the tree and all checkpoints follow."""
    position, state = of_topic(db, "job.completed.v1")
    [(job,)] = db.execute(
        "SELECT state FROM stored_events WHERE originator_id = ? AND originator_version = 1",
        (UUID(state["job_id"]).hex,),
    )
    submitted = json.loads(job)
    document = {
        "version": "1",
        **{name: state[name] for name in ("job_id", "attempt", "miner_id", "session_id", "result_digest")},
        **{name: submitted[name] for name in ("service", "payload_digest")},
        **{name: state["statement"][name] for name in ("started_at_ms", "completed_at_ms")},
    }
    signature = sign_statement(SigningKey(b"x" * 32), document)["signature"]
    put_state(db, position, {**state, "statement": {**state["statement"], "signature": signature}})
    renotarize(db, KEY)


def renotarize(db: sqlite3.Connection, key: SigningKey) -> None:
    """Compute the tree again, and sign all checkpoints again: what the holder of database and key can do."""
    edge, tiles, positions = TreeEdge(), dict[Tile, bytes](), list[int]()
    rows = db.execute(
        "SELECT rowid, originator_id, originator_version, topic, metadata, state "
        "FROM stored_events ORDER BY rowid"
    ).fetchall()
    sizes = [size for (size,) in db.execute("SELECT size FROM checkpoints ORDER BY size")]
    hashes = [hash_of(p, str(UUID(s)), v, t, m, st) for p, s, v, t, m, st in rows]
    positions = [row[0] for row in rows]
    tiles = edge.extend(hashes)
    db.execute("DELETE FROM merkle_tiles")
    for tile, content in tiles.items():
        own = positions[tile.number * 256 : tile.number * 256 + 256] if tile.level == 0 else []
        packed = b"".join(position.to_bytes(8, "big") for position in own)
        first = own[0] if own else -1
        db.execute(
            "INSERT INTO merkle_tiles VALUES (?,?,?,?,?)", (tile.level, tile.number, content, packed, first)
        )
    for size in sizes:
        root = root_of(hashes[: min(size, len(hashes))])
        note = sign_checkpoint(key, Checkpoint(ORIGIN, size, root)).text
        db.execute("UPDATE checkpoints SET root = ?, note = ? WHERE size = ?", (root, note, size))


def rewrite(key: SigningKey, *, introduce: bool) -> Change:
    """A log with matching hashes under another key: its owner's job costs nothing any more."""

    def change(db: sqlite3.Connection) -> None:
        position, state = of_topic(db, "job.canceled.v1", 50)
        put_state(db, position, {**state, "reason": "nothing happened"})
        if introduce:
            [(first,)] = db.execute("SELECT state FROM stored_events WHERE rowid = 1")
            put_state(db, 1, {**json.loads(first), "key_id": key.key_id})
        renotarize(db, key)

    return change


def swap_positions(db: sqlite3.Connection) -> None:
    db.execute("UPDATE stored_events SET rowid = -1 WHERE rowid = 2000")
    db.execute("UPDATE stored_events SET rowid = 2000 WHERE rowid = 2001")
    db.execute("UPDATE stored_events SET rowid = 2001 WHERE rowid = -1")


def insert(db: sqlite3.Connection) -> None:
    """An event that fits its stream, between two others: positions may have gaps, so one is made first."""
    db.execute("UPDATE stored_events SET rowid = 1000000 + rowid WHERE rowid > 3000")
    db.execute("UPDATE stored_events SET rowid = rowid - 1000000 + 1 WHERE rowid > 1000000")
    [(state, metadata)] = db.execute(
        "SELECT state, metadata FROM stored_events WHERE topic = 'miner.registered.v1' LIMIT 1"
    )
    member = {**json.loads(state), "session_id": "session-2"}
    stream = db.execute(
        "SELECT originator_id FROM stored_events WHERE topic = 'miner.registered.v1'"
    ).fetchone()[0]
    db.execute(
        "INSERT INTO stored_events VALUES (3001, ?, 2, 'miner.registered.v1', ?, ?)",
        (stream, json.dumps(member, separators=(",", ":")).encode(), metadata),
    )


def drop_a_middle_event(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM stored_events WHERE rowid = 2345")


LATE = "(SELECT job_id FROM jobs ORDER BY position DESC LIMIT 1 OFFSET 50)"
"""A job near the end of the log."""
CHANGES: dict[str, tuple[Change, set[str], int | None]] = {
    # name: the change, the kinds that name it, the position that it is named at
    "an event changed": (change_state(2000, by="mallory"), {"leaf", "client", "lease"}, 2000),
    "an event changed to another form": (change_state(2000, evil=1), {"event"}, 2000),
    "an event's member left out": (
        lambda db: put_state(db, 2000, {"at": 1}),
        {"event"},
        2000,
    ),
    "a space in an event": (
        sql(
            "UPDATE stored_events SET state = CAST(replace(state, '\"at\":', '\"at\": ') AS BLOB) "
            "WHERE rowid = 2000"
        ),
        {"event"},
        2000,
    ),
    "an event dropped": (drop_a_middle_event, {"missing", "version", "transition"}, 2345),
    "an event inserted": (insert, {"inserted", "leaf"}, 3001),
    "two events reordered": (swap_positions, {"leaf"}, 2000),
    "the end cut off": (sql("DELETE FROM stored_events WHERE rowid > 4000"), {"missing", "row"}, 4001),
    "the end and the tree cut off": (
        sql("DELETE FROM stored_events WHERE rowid > 4000", "DELETE FROM merkle_tiles"),
        {"truncated", "row"},
        4000,
    ),
    "two jobs' receipts swapped": (swap_receipts, {"price", "statement"}, None),
    "a statement signed with another key": (resign, {"statement"}, None),
    "a log rewritten under its own key": (rewrite(SigningKey(b"y" * 32), introduce=True), {"key"}, 1),
    "checkpoints signed with another key": (
        rewrite(SigningKey(b"y" * 32), introduce=False),
        {"row", "checkpoint"},
        None,
    ),
    "an event and the tree changed": (
        lambda db: (
            change_state(2000, by="mallory")(db),
            db.execute("DELETE FROM merkle_tiles"),
        ),
        {"root", "client", "lease"},
        None,
    ),
    "a payload changed": (
        sql(
            'UPDATE payloads SET body = CAST(\'{"audio":"other.wav"}\' AS BLOB) '
            "WHERE kind = 'payload' AND rowid = 700"
        ),
        {"payload"},
        None,
    ),
    "a payload gone": (sql("DELETE FROM payloads WHERE kind = 'payload' AND rowid = 700"), {"erased"}, None),
    "all results gone": (sql("DELETE FROM payloads WHERE kind = 'result'"), {"erased"}, None),
    "a result's salt changed": (sql("UPDATE payloads SET salt = x'00' WHERE rowid = 700"), {"payload"}, None),
    "a row of a read model changed": (
        sql("UPDATE jobs SET price = '9.000000' WHERE job_id = " + LATE),
        {"row"},
        None,
    ),
    "a row of a read model gone": (sql("DELETE FROM jobs WHERE job_id = " + LATE), {"row"}, None),
    "a row of a read model too many": (
        sql(
            "INSERT INTO jobs SELECT 'evil', client, service, service_version, state, constraints_json, "
            "priority, attempt, max_attempts, miner_id, requested_at, started_at, finished_at, expires_at, "
            "error_code, error_message, payload_digest, result_digest, position, units, price, hold "
            "FROM jobs WHERE job_id = " + LATE
        ),
        {"row"},
        EVENTS,
    ),
    "a miner's row changed": (
        sql("UPDATE miners SET concurrency = 99 WHERE miner_id = 'rig'"),
        {"row"},
        None,
    ),
    "a service's row changed": (sql("UPDATE services SET retired = 1"), {"row"}, None),
    "a leaf's metadata changed": (
        sql(
            "UPDATE stored_events SET metadata = CAST(replace(metadata, 'command-', 'commanD-') AS BLOB) "
            "WHERE rowid = 2000"
        ),
        {"leaf"},
        2000,
    ),
    "invalid metadata": (
        sql("UPDATE stored_events SET metadata = x'7b7d' WHERE rowid = 2000"),
        {"metadata"},
        2000,
    ),
    "a checkpoint's root changed": (
        lambda db: db.execute(
            "UPDATE checkpoints SET note = ? WHERE size = 3000",
            (sign_checkpoint(KEY, Checkpoint(ORIGIN, 3000, b"\x01" * 32)).text,),
        ),
        {"root"},
        None,
    ),
    "a checkpoint's note spoilt": (
        sql(
            "UPDATE checkpoints SET note = replace(note, char(10) || '3000', char(10) || '2999') "
            "WHERE size = 3000"
        ),
        {"checkpoint"},
        3000,
    ),
    "a leaf of the tree changed": (
        sql("UPDATE merkle_tiles SET hashes = zeroblob(8192) WHERE level = 0 AND tile = 3"),
        {"leaf"},
        769,
    ),
}


@every("name", CHANGES)
def test_each_change_is_found_and_named(
    name: str, good: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every change of a log, its proofs or its tables is found, with its kind and its first position."""
    change, kinds, position = CHANGES[name]
    folder = tmp_path_factory.mktemp("changed")
    shutil.copy(good / DATABASE_FILE, folder / DATABASE_FILE)
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as db, db:
        change(db)
    found = run(folder).divergence
    assert found is not None
    assert found.kind in kinds, found
    assert position in (None, found.position), found
    shutil.rmtree(folder)
