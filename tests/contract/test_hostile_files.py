"""Exported files that somebody made to mislead or to stop the auditor and the import."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from coordinator.audit.run import AuditOptions, audit
from coordinator.audit.sources.export import BadFile, open_export
from coordinator.projections import projector
from coordinator.runtime.log_transfer import export_log, import_log
from coordinator.runtime.settings import Settings
from coordinator.storage.connections.data_directory import DATABASE_FILE
from coordinator.storage.transfer.export_file import BadExport
from tests.contract.test_audit import nobody
from tests.harness import decided_log
from tests.harness.cases import every
from tests.harness.notarizing import NotarizedLog

PLACE = 50
"""The position of the event that is changed."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a good whole export but the last one, and one checkpoint at least."""
    folder = tmp_path_factory.mktemp("good")
    folder.chmod(0o700)
    log = NotarizedLog(str(folder / DATABASE_FILE), folder / "checkpoint")
    decided_log.write(log.log, 20)
    projector.rebuild(log.log, log.database, nobody)
    asyncio.run(log.follow(log.notary()))
    log.close()
    file = folder / "good.gz"
    export_log(Settings(data_dir=folder, _env_file=None), file, whole=True, progress=nobody)
    return gzip.decompress(file.read_bytes()).split(b"\n")[:-2]


def write(lines: Sequence[bytes], file: Path) -> None:
    """A file with a right last line."""
    body = b"".join(line + b"\n" for line in lines)
    counts = [sum(line.startswith(b'["%s"' % kind) for line in lines) for kind in (b"event", b"row")]
    end = {"events": counts[0], "rows": counts[1], "sha256": hashlib.sha256(body).hexdigest()}
    file.write_bytes(gzip.compress(body + json.dumps(["end", end]).encode() + b"\n", 1))


Change = Callable[[list[Any]], object]


def of_event(member: int, value: Any) -> tuple[str, Change]:
    return f'["event",{PLACE},', lambda line: line.__setitem__(member, value)


def of_table(table: str, change: Change) -> tuple[str, Change]:
    return f'["table","{table}",', change


VALUES: dict[int, list[Any]] = {
    # by member of the line: position, stream, version, topic, metadata, state
    1: [None, True, -1, 1.5, 2**63, "x", []],
    2: [None, 5, "x", []],
    3: [None, True, 0, 1.5, 2**63, "x", 1],
    4: [None, 5, "\0", "job.unknown.v1", {}],
    5: [None, 5, "x", []],
    6: [None, 5, "x", '{\n"a":1}', '{"at":NaN}', []],
}
LINES: dict[str, tuple[str, Change]] = {
    # name: the line that is changed, and the change
    **{f"member {m}: {value!r}": of_event(m, value) for m, values in VALUES.items() for value in values},
    "a deep state": of_event(6, '{"a":' + "[" * 100_000),
    "a long event": (f'["event",{PLACE},', lambda line: line.append(1)),
    "a short event": (f'["event",{PLACE},', lambda line: line.__delitem__(slice(1, None))),
    "a table of no name": of_table("checkpoints", lambda line: line.__setitem__(1, {})),
    "columns that are none": of_table("checkpoints", lambda line: line.__setitem__(2, [[]])),
    "other columns": of_table("checkpoints", lambda line: line.__setitem__(2, ["a"])),
}
ROWS = {
    "an origin of bytes": (1, {"base64": "AA=="}),
    "a size of text": (2, "x"),
    "a note of bytes": (6, {"base64": "AA=="}),
    "a note that is a number": (6, 5),
}


def changed(lines: list[bytes], name: str) -> list[bytes]:
    if name in ROWS:
        number = next(n for n, line in enumerate(lines) if line.startswith(b'["table","checkpoints",')) + 1
        place, value = ROWS[name]
        row = json.loads(lines[number])
        row[place] = value
        return [*lines[:number], json.dumps(row).encode(), *lines[number + 1 :]]
    prefix, change = LINES[name]
    number = next(n for n, line in enumerate(lines) if line.startswith(prefix.encode()))
    line = json.loads(lines[number])
    change(line)
    return [*lines[:number], json.dumps(line).encode(), *lines[number + 1 :]]


@every("name", [*LINES, *ROWS])
def test_the_auditor_refuses_or_names_it(name: str, lines: list[bytes], tmp_path: Path) -> None:
    """A spoilt file is either no export, or diverges at the spoilt event; the auditor never fails."""
    file = tmp_path / "log.gz"
    write(changed(lines, name), file)
    try:
        with open_export(file) as source:
            found = audit(source, AuditOptions(processes=0), nobody).divergence
    except BadFile:
        return
    assert found is not None
    if name in LINES:
        assert (PLACE, True) == (found.position, found.kind != "root"), found


@every("name", [*LINES, *ROWS])
def test_the_import_refuses_it(name: str, lines: list[bytes], tmp_path: Path, any_database: Settings) -> None:
    """Nothing of a spoilt file gets into a database, SQLite or Postgres."""
    file = tmp_path / "log.gz"
    write(changed(lines, name), file)
    with pytest.raises(BadExport):
        import_log(any_database, file, nobody)


def test_the_good_file_is_clean(lines: list[bytes], tmp_path: Path, any_database: Settings) -> None:
    """The file of these tests, unchanged, audits clean and is imported."""
    file = tmp_path / "log.gz"
    write(lines, file)
    with open_export(file) as source:
        assert audit(source, AuditOptions(processes=0), nobody).divergence is None
    assert import_log(any_database, file, nobody).events > PLACE


@pytest.fixture(params=["sqlite", "postgres"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The settings of an empty database of each kind."""
    folder = tmp_path / "target"
    folder.mkdir(mode=0o700)
    if request.param == "sqlite":
        return Settings(data_dir=folder, _env_file=None)
    return Settings(
        data_dir=folder,
        database_url=SecretStr(request.getfixturevalue("database_url")),
        amqp_url=SecretStr("amqp://127.0.0.1:1/unused"),
        _env_file=None,
    )
