"""A log in a file: from SQLite to Postgres and back, interrupted, and from strangers."""

from __future__ import annotations

import gzip
import json
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import SecretStr

from coordinator.application.ports import NewEvent, StoredPayload
from coordinator.domain.job import is_job_event
from coordinator.domain.messages import Event
from coordinator.domain.miner import miner_stream
from coordinator.runtime.log_transfer import LogNotEmpty, export_log, import_log
from coordinator.runtime.projections import check_projections, rebuild_projections
from coordinator.runtime.settings import Settings
from coordinator.storage.connections.data_directory import DATABASE_FILE, DataDirectoryInUse
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.log_identity import log_id_of
from coordinator.storage.tables.sqlite import SqliteDatabase
from coordinator.storage.transfer import export_file
from coordinator.storage.transfer.export_file import BadExport
from tests.harness import deciding as made
from tests.harness.cases import every
from tests.harness.metadata import METADATA

AMQP = SecretStr("amqp://127.0.0.1:1/unused")
NOBODY: Callable[[int, int], None] = lambda done, total: None  # noqa: E731


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """As the operator has made it: without our tables."""
    return empty_database_url


def embedded(folder: Path) -> Settings:
    return Settings(data_dir=folder, _env_file=None)


def standard(url: str, folder: Path) -> Settings:
    return Settings(data_dir=folder, database_url=SecretStr(url), amqp_url=AMQP, _env_file=None)


@pytest.fixture
def origin(tmp_path: Path) -> Settings:
    """A data directory with a small log: gaps in its positions, payloads, read models, an identity."""
    settings = embedded(tmp_path / "origin")
    settings.data_dir.mkdir(mode=0o700)
    path = settings.data_dir / DATABASE_FILE
    migrate(path)
    log, database = SqliteEventLog(path), SqliteDatabase(path)
    versions: dict[Any, int] = {}

    def append(*events: Event) -> None:
        new = []
        for event in events:
            stream = event.job_id if is_job_event(event) else miner_stream("rig")
            versions[stream] = versions.get(stream, 0) + 1
            new.append(NewEvent(stream, versions[stream], event, METADATA))
        log.append(new, [StoredPayload(made.JOB_ID, "payload", b"\x00salt\xff", '{"text":"ü🎛"}'.encode())])

    append(made.registered(), made.submitted())
    with sqlite3.connect(path) as connection:  # as a rolled-back append on Postgres leaves it
        connection.execute("UPDATE sqlite_sequence SET seq = 40 WHERE name = 'stored_events'")
    append(made.started(), made.canceled(1, "line one\nline \\ two 🎛 \u2028 \r end"))
    log_id_of(database)
    log.close()
    database.close()
    rebuild_projections(settings, NOBODY)
    return settings


def contents(settings: Settings) -> dict[str, list[Any]]:
    """Every row of every table, as an outsider reads them."""
    found: dict[str, list[Any]] = {}
    if settings.database_url is None:
        with sqlite3.connect(settings.data_dir / DATABASE_FILE) as connection:
            names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in names:
                columns = [c for (c,) in connection.execute(f"SELECT name FROM pragma_table_info('{name}')")]
                rows = connection.execute(f"SELECT * FROM {name}").fetchall()
                found[name] = [dict(zip(columns, row, strict=True)) for row in rows]
    else:
        url = settings.database_url.get_secret_value()
        with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as pg:
            tables = pg.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for table in tables:
                name = table["tablename"]
                found[name] = pg.execute(f"SELECT * FROM {name}").fetchall()
    for event in found["stored_events"]:
        event["position"] = event.pop("rowid", None) or event.pop("notification_id")
        event["originator_id"] = UUID(str(event["originator_id"]))
    for payload in found["payloads"]:
        payload["job_id"] = UUID(str(payload["job_id"]))
    return {
        name: sorted(
            ({k: str(bytes(v) if isinstance(v, memoryview) else v) for k, v in row.items()} for row in rows),
            key=str,
        )
        for name, rows in found.items()
        if name not in ("schema_migrations", "sqlite_sequence")
    }


def test_one_file_moves_a_coordinator_to_postgres_and_back(
    origin: Settings, database_url: str, tmp_path: Path
) -> None:
    """A whole export carries log, payloads and tables to Postgres and back: every row is the same."""
    there, back = tmp_path / "there.gz", tmp_path / "back.gz"
    moved, returned = standard(database_url, tmp_path / "moved"), embedded(tmp_path / "returned")

    out = export_log(origin, there, whole=True, progress=NOBODY)
    assert out == import_log(moved, there, NOBODY)
    assert (4, 42) == (out.events, out.position)
    export_log(moved, back, whole=True, progress=NOBODY)
    import_log(returned, back, NOBODY)

    assert contents(origin) == contents(moved) == contents(returned)
    assert 0o600 == stat.S_IMODE(there.stat().st_mode)
    assert [] == check_projections(returned)


@pytest.mark.parametrize("mode", ["embedded", "standard"])
def test_the_log_alone_has_nothing_private_and_rebuilds_the_rest(
    mode: str, origin: Settings, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """An export for auditors has no payload; the importer's tables follow from the log, and it appends on."""
    file = tmp_path / "log.gz"
    url = request.getfixturevalue("database_url") if mode == "standard" else None
    target = standard(url, tmp_path / "t") if url else embedded(tmp_path / "t")
    export_log(origin, file, whole=False, progress=NOBODY)
    text = gzip.decompress(file.read_bytes()).decode()
    assert "payloads" not in text
    assert {"log", "event", "end"} <= {json.loads(line)[0] for line in text.split("\n")[:-1]}

    import_log(target, file, NOBODY)
    before, after = contents(origin), contents(target)
    assert before["stored_events"] == after["stored_events"]
    assert before["log_identity"] == after["log_identity"]
    assert [{"follower": "publisher", "position": "42"}] == after["positions"]
    assert [] == after["payloads"] == after["jobs"]
    rebuild_projections(target, NOBODY)
    assert before["jobs"] == contents(target)["jobs"]

    from coordinator.runtime.log_reader import open_log

    log = open_log(target)
    appended = log.append([NewEvent(made.JOB_ID, 9, made.canceled(), METADATA)])
    log.close()
    assert (42, 43) == (appended.previous, appended.events[0].position)


def test_an_interrupted_export_goes_on(
    origin: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off anywhere, an export continues and ends as the same file as one that was not cut."""
    monkeypatch.setattr(export_file, "MEMBER_BYTES", 1)  # a member for each line
    whole, cut = tmp_path / "whole.gz", tmp_path / "cut.gz"
    export_log(origin, whole, whole=True, progress=NOBODY)
    complete = whole.read_bytes()
    for size in range(400, len(complete), len(complete) // 20):
        cut.write_bytes(complete[:size])
        export_log(origin, cut, whole=True, progress=NOBODY)
        assert gzip.decompress(complete) == gzip.decompress(cut.read_bytes())
        cut.unlink()

    with pytest.raises(BadExport, match="whole export already"):
        export_log(origin, whole, whole=True, progress=NOBODY)
    cut.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(BadExport, match="another --whole"):
        export_log(origin, cut, whole=False, progress=NOBODY)
    cut.write_bytes(b"something else")
    with pytest.raises(BadExport, match="no beginning"):
        export_log(origin, cut, whole=True, progress=NOBODY)
    assert b"something else" == cut.read_bytes()  # not ours: left as it is


def test_only_an_empty_log_takes_an_import(origin: Settings, tmp_path: Path) -> None:
    """A log is never mixed with another, and a directory in use is left alone."""
    from coordinator.storage.connections.data_directory import DataDirectory

    file = tmp_path / "log.gz"
    export_log(origin, file, whole=False, progress=NOBODY)
    before = contents(origin)
    with pytest.raises(LogNotEmpty):
        import_log(origin, file, NOBODY)
    assert before == contents(origin)
    with DataDirectory(tmp_path / "busy"), pytest.raises(DataDirectoryInUse):
        import_log(embedded(tmp_path / "busy"), file, NOBODY)


def _changed(lines: list[bytes], number: int, change: Callable[[list[Any]], object]) -> list[bytes]:
    line = json.loads(lines[number])
    change(line)
    return [*lines[:number], json.dumps(line).encode(), *lines[number + 1 :]]


FAULTS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "no end": (lambda lines: lines[:-1], "ends early"),
    "an event gone": (lambda lines: [*lines[:2], *lines[3:]], "does not fit"),
    "an event twice": (lambda lines: [*lines[:2], lines[1], *lines[2:]], "comes after position"),
    "another order": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "comes after position"),
    "another digest": (
        lambda lines: _changed(lines, -1, lambda li: li[1].update(sha256="0" * 64)),
        "does not fit",
    ),
    "more after the end": (lambda lines: [*lines, lines[1]], "after the end"),
    "no header": (lambda lines: lines[1:], "the header is the first line"),
    "two headers": (lambda lines: [lines[0], *lines], "the header is the first line"),
    "another format": (
        lambda lines: _changed(lines, 0, lambda li: li[1].update(format="2")),
        "this program reads",
    ),
    "an unknown topic": (
        lambda lines: _changed(lines, 2, lambda li: li.__setitem__(4, "job.melted.v1")),
        "position 2: unknown topic",
    ),
    "an invalid event": (
        lambda lines: _changed(lines, 2, lambda li: li.__setitem__(6, "{}")),
        "position 2: invalid",
    ),
    "invalid metadata": (
        lambda lines: _changed(lines, 2, lambda li: li.__setitem__(5, "{}")),
        "invalid metadata",
    ),
    "no stream": (lambda lines: _changed(lines, 2, lambda li: li.__setitem__(2, "x")), "an invalid line"),
    "an unknown table": (
        lambda lines: _changed(lines, 5, lambda li: li.__setitem__(1, "stored_events")),
        "no table 'stored_events'",
    ),
    "rows first": (lambda lines: [lines[0], b'["row",1]', *lines[1:]], "a row without a table"),
    "not JSON": (lambda lines: [*lines[:2], b"{", *lines[2:]], "an invalid line"),
    "deep JSON": (lambda lines: [*lines[:2], b"[" * 100_000, *lines[2:]], "an invalid line"),
    "an unknown line": (lambda lines: [*lines[:2], b'["evil"]', *lines[2:]], "unknown kind"),
    "empty": (lambda lines: [], "ends early"),
}


@pytest.fixture
def exported(origin: Settings, tmp_path: Path) -> list[bytes]:
    file = tmp_path / "log.gz"
    export_log(origin, file, whole=True, progress=NOBODY)
    return gzip.decompress(file.read_bytes()).split(b"\n")[:-1]


@every("name", FAULTS)
def test_spoilt_files_are_refused_whole(
    name: str, exported: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file that was cut or changed is named by its fault, and nothing of it is imported."""
    spoil, complaint = FAULTS[name]
    folder = tmp_path_factory.mktemp("spoilt")
    file, target = folder / "log.gz", embedded(folder / "target")
    file.write_bytes(gzip.compress(b"".join(line + b"\n" for line in spoil(exported))))
    with pytest.raises(BadExport, match=complaint):
        import_log(target, file, NOBODY)
    assert [] == contents(target)["stored_events"] == contents(target)["jobs"]


def test_files_of_other_kinds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not compressed, cut off inside the compression, or one endless line, is refused."""
    file, target = tmp_path / "log.gz", embedded(tmp_path / "target")
    compressed = gzip.compress(b'["log",{}]')
    monkeypatch.setattr(export_file, "MAX_LINE", 1000)
    for content, complaint in (
        (b"SQLite format 3\0", "gzip"),
        (compressed[:-9], "gzip"),
        (gzip.compress(b"x" * 10_000), "longer than 1000 bytes"),
    ):
        file.write_bytes(content)
        with pytest.raises(BadExport, match=complaint):
            import_log(target, file, NOBODY)
