"""A backup in a folder, from SQLite and Postgres: whole, continued, damaged, and restored to a moment."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from coordinator.application.payloads.references import Need, need_blobs
from coordinator.application.ports import NewEvent, StoredPayload
from coordinator.application.proof.errors import LogWentBack
from coordinator.application.proof.origins import read_origins
from coordinator.blobs.local import LocalBlobStore
from coordinator.crypto.log.checkpoint import Checkpoint, sign_checkpoint
from coordinator.domain.content import CONTENT_KINDS, ContentErased, content_stream
from coordinator.projections.projector import READ_MODELS
from coordinator.runtime.backup.erasures import read_erasures, remember_erasure
from coordinator.runtime.backup.fork import HistorySigned, Identity
from coordinator.runtime.backup.making import Made, make_backup
from coordinator.runtime.backup.restoring import Restored, restore_backup
from coordinator.runtime.backup.survey import Moment
from coordinator.runtime.backup.tables import DERIVED, WHOLE
from coordinator.runtime.log_transfer import LogNotEmpty
from coordinator.runtime.projections import check_projections, rebuild_all
from coordinator.runtime.settings import Settings
from coordinator.storage.backup.folder import BackupBusy, BackupFolder, BadBackup
from coordinator.storage.checkpoint_file import CheckpointFile
from coordinator.storage.connections.data_directory import DATABASE_FILE
from coordinator.storage.tables.log_identity import log_id_of
from coordinator.storage.transfer.source import PAYLOADS
from tests.contract.test_transfer import contents, embedded, standard
from tests.harness import decided_log
from tests.harness import deciding as made
from tests.harness.metadata import METADATA
from tests.harness.notarizing import KEY, ORIGIN, NotarizedLog

QUIET: Callable[[str], Callable[[int, int], None]] = lambda label: lambda done, total: None  # noqa: E731
HEARTBEATS = {"lease_until", "last_seen", "gpu_memory_json"}
"""Columns that follow from heartbeats."""
FILE, SECRET = b"a file of alice", b"a file that is erased"


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """As the operator has made it: without our tables."""
    return empty_database_url


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


@dataclass
class Place:
    """A coordinator's database and data directory, at rest."""

    settings: Settings
    opened: list[NotarizedLog] = field(default_factory=list)

    def log(self) -> NotarizedLog:
        if not self.opened:
            url = self.settings.database_url
            folder = self.settings.data_dir
            folder.mkdir(mode=0o700, exist_ok=True)
            target = str(folder / DATABASE_FILE) if url is None else url.get_secret_value()
            self.opened.append(NotarizedLog(target, folder / "checkpoint"))
        return self.opened[0]

    def close(self) -> None:
        while self.opened:
            self.opened.pop().close()

    def upload(self, content: bytes, owner: str, job: UUID | None = None) -> str:
        """Store a blob of this name, which a job's payload needs; its digest."""
        digest, log = sha(content), self.log()
        store = LocalBlobStore(self.settings.data_dir / "blobs")
        asyncio.run(store.put(stream(content), expected_sha256=None, max_bytes=1000))
        with log.database.transaction() as tables:
            row = {"key": f"{digest}/{owner}", "digest": digest, "principal": owner, "size": len(content)}
            tables.put("blob_owners", [{**row, "at": 1, "used_at": 1}])
        if job is not None:
            need_blobs(log.database, [Need(job, "payload", [digest])])
        return digest

    def notarize(self) -> None:
        log = self.log()
        asyncio.run(log.follow(log.notary(), batch=7))

    def submit(self, job: UUID, text: str = "x") -> None:
        event = made.submitted(job_id=job, payload_bytes=10)
        payload = StoredPayload(job, "payload", b"salt", json.dumps({"text": text}).encode())
        self.log().log.append([NewEvent(job, 1, event, METADATA)], [payload])

    def tell(self, message: str, **columns: Any) -> None:
        """Store a message to a receiver, by default a delivered one, and how the receiver fared."""
        names = ("webhook_id", "owner", "type", "subject", "data_json", "sealed_url", "due_at", "tried_at")
        row: dict[str, Any] = {
            "delivery_id": message,
            **dict.fromkeys(names),
            **dict.fromkeys(names[:4], "x"),
        }
        row |= {"position": 1, "at": made.T0, "round": 0, "tries": 1, "done_at": made.T0}
        row |= {"state": "DELIVERED", "attempts_json": "[]", **columns}
        health = {"webhook_id": "x", "failures": 1, "succeeded_at": made.T0, "failed_at": None}
        with self.log().database.transaction() as tables:
            tables.put("webhook_deliveries", [row])
            tables.put("webhook_health", [{**health, "last_error": ""}])

    def erase(self, *jobs: UUID) -> int:
        """The event alone; the position."""
        event = ContentErased(
            at=made.T0 + 99, by="alice", jobs=jobs, kinds=CONTENT_KINDS, client="alice", reason="asked to"
        )
        new: list[NewEvent] = [NewEvent(content_stream(jobs, CONTENT_KINDS), 1, event, METADATA)]
        [recorded] = self.log().log.append(new).events
        self.log().log.erase(jobs)
        remember_erasure(self.settings.data_dir / "checkpoint.erasures", recorded)
        return recorded.position

    def backup(self, to: Path, *, with_blobs: bool = True) -> Made:
        return make_backup(self.settings, to, with_blobs=with_blobs, progress=QUIET)

    def rows(self) -> dict[str, list[Any]]:
        """All that is stored, without what heartbeats say and what a log keeps of how it was driven."""
        found = contents(self.settings)
        found.pop("positions")
        return {
            table: [{n: v for n, v in row.items() if n not in HEARTBEATS} for row in rows]
            for table, rows in found.items()
        }

    def head(self) -> int:
        return self.log().log.head()


def restore(source: Path, into: Place, moment: Moment = Moment(), **choices: Any) -> Restored:  # noqa: B008
    identity = Identity(
        choices.pop("continue_as", None), choices.pop("reason", "test"), choices.pop("same_origin", False)
    )
    options: dict[str, Any] = {"erasures": None, "check_only": False, "progress": QUIET, **choices}
    return restore_backup(into.settings, source, moment, identity, **options)


@pytest.fixture(params=["embedded", "standard"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A log of 30 jobs with all that belongs to it: payloads, uploads, checkpoints, derived tables."""
    folder = tmp_path / "kept"
    standard_mode = request.param == "standard"
    place = Place(
        standard(request.getfixturevalue("database_url"), folder) if standard_mode else embedded(folder)
    )
    decided_log.write(place.log().log, 30)
    log_id_of(place.log().database)
    place.upload(FILE, "alice", UUID(int=(0x0190163D << 96) | (0x7 << 76) | (0x8 << 60) | 1))
    place.notarize()
    rebuild_all(place.settings, lambda done, total: None) if standard_mode else _rebuild(place)
    place.notarize()
    yield place
    place.close()


def _rebuild(place: Place) -> None:
    place.close()  # one process at a time uses a data directory
    rebuild_all(place.settings, lambda done, total: None)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Place]:
    place = Place(embedded(tmp_path / "target"))
    yield place
    place.close()


def test_what_is_restored_is_what_was_backed_up(
    kept: Place, target: Place, database_url: str, tmp_path: Path
) -> None:
    """A backup in two runs, restored into SQLite and then into Postgres: all rows and blobs are equal."""
    kept.tell("delivered")
    kept.tell("due", state="PENDING", due_at=made.T0, done_at=None)
    first = kept.backup(tmp_path / "copy")
    kept.tell("due")  # meanwhile
    kept.tell("also due", state="PENDING", due_at=made.T0, done_at=None)
    jobs = [uuid4() for _ in range(3)]
    for job in jobs:
        kept.submit(job)
    kept.upload(b"later", "bob", jobs[0])
    kept.notarize()
    second = kept.backup(tmp_path / "copy")
    assert (len(kept.log().hashes()), 3) == (second.manifest.events, second.added_events)
    assert (first.added_blobs, second.added_blobs, second.manifest.blobs) == (1, 1, 2)

    done = restore(tmp_path / "copy", target, same_origin=True)
    assert (second.manifest.position, ORIGIN, 0) == (done.survey.position, done.origin, done.repeated)
    target.notarize()
    was, now = kept.rows(), target.rows()
    assert was["stored_events"] == now["stored_events"]
    assert {"delivered": "DELIVERED", "due": "DELIVERED", "also due": "PENDING"} == {
        row["delivery_id"]: row["state"] for row in now["webhook_deliveries"]
    }
    for table in (*WHOLE, PAYLOADS, "checkpoints", "cosignatures", "log_identity", "merkle_tiles"):
        assert was[table] == now[table], table
    stored = target.settings.data_dir / "blobs"
    assert {FILE, b"later"} == {p.read_bytes() for p in stored.glob("[0-9a-f][0-9a-f]/*")}
    target.close()
    assert [] == check_projections(target.settings, every=True)

    if kept.settings.database_url is None:
        target.backup(tmp_path / "again")
        moved = Place(standard(database_url, tmp_path / "moved"))
        restore(tmp_path / "again", moved, same_origin=True)
        moved.notarize()
        assert now == moved.rows()
        moved.close()


def test_every_table_is_kept_or_follows_from_the_log(kept: Place) -> None:
    """No table is forgotten: a new one has to be named in `runtime.backup.tables`."""
    named = {*WHOLE, *DERIVED, PAYLOADS, "checkpoints", "cosignatures", "log_identity", "stored_events"}
    assert contents(kept.settings).keys() == named
    assert {model.table for model in READ_MODELS} <= set(DERIVED)


def test_a_log_that_signed_more_loses_its_name(kept: Place, target: Place, tmp_path: Path) -> None:
    """Every way to a second tree of a signed size is refused; under a new name, the log goes on."""
    kept.backup(tmp_path / "copy")
    middle = kept.log().log.read(0, 60)[-1].position
    for choices, words in (
        ({}, "there is no CHECKPOINT_FILE"),
        ({"moment": Moment(middle)}, "has signed a checkpoint of"),
        ({"moment": Moment(middle), "same_origin": True}, "has signed a checkpoint of"),
        ({"continue_as": ORIGIN}, "choose another"),
    ):
        with pytest.raises(HistorySigned, match=words):
            restore(tmp_path / "copy", target, **choices)
    kept.submit(uuid4())
    kept.notarize()  # after the backup, this was signed
    target.settings.data_dir.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(kept.settings.data_dir / "checkpoint", target.settings.data_dir / "checkpoint")
    with pytest.raises(HistorySigned, match="has signed a checkpoint of"):
        restore(tmp_path / "copy", target)

    done = restore(tmp_path / "copy", target, Moment(middle), continue_as="example.com/second")
    assert (60, "example.com/second", ORIGIN) == (done.survey.size, done.origin, done.former_origin)
    log = target.log()
    asyncio.run(log.follow(log.notary(origin=None)))
    assert ("example.com/second", 60) == log.published()[:2]
    assert kept.log().hashes()[:60] == log.hashes()
    assert [(60,)] == log.sql("SELECT max(size) FROM checkpoints")
    with log.database.transaction() as tables:
        origins = read_origins(tables)
    assert origins is not None
    assert {ORIGIN, "example.com/second"} == set(origins.known)
    target.close()
    assert [] == check_projections(target.settings, every=True)


def test_the_notary_stops_where_a_restored_log_has_another_tree(
    kept: Place, target: Place, tmp_path: Path
) -> None:
    """An operator who vouches wrongly is found out by the checkpoint file, when it comes back."""
    kept.backup(tmp_path / "copy")
    kept.submit(uuid4())
    kept.notarize()
    restore(tmp_path / "copy", target, same_origin=True)
    shutil.copy(kept.settings.data_dir / "checkpoint", target.settings.data_dir / "checkpoint")
    with pytest.raises(LogWentBack, match="older copy"):
        target.notarize()


def test_what_was_erased_stays_erased(kept: Place, target: Place, tmp_path: Path) -> None:
    """Content that was erased after the moment, or after the backup, stays away, and its erasures wait."""
    early, late, free = uuid4(), uuid4(), uuid4()
    for job in (early, late, free):
        kept.submit(job, f"secret of {job}")
    gone, shared = kept.upload(SECRET, "alice", early), kept.upload(b"shared", "alice", early)
    need_blobs(kept.log().database, [Need(free, "payload", [shared])])
    moment = kept.head()
    kept.backup(tmp_path / "copy")
    kept.erase(early)
    kept.backup(tmp_path / "copy")
    kept.erase(late)  # no backup knows of it: the list beside the checkpoint does
    listed = kept.settings.data_dir / "checkpoint.erasures"
    assert [[str(early)], [str(late)]] == [erasure.jobs for erasure in read_erasures(listed)]

    done = restore(
        tmp_path / "copy", target, Moment(moment), continue_as="example.com/second", erasures=listed
    )
    assert (2, 2) == (done.erased, done.repeated)
    text = str(contents(target.settings)[PAYLOADS])
    assert (False, False, True) == tuple(f"secret of {job}" in text for job in (early, late, free))
    files = {p.read_bytes() for p in (target.settings.data_dir / "blobs").glob("[0-9a-f][0-9a-f]/*")}
    assert {FILE, b"shared"} == files
    assert gone not in str(contents(target.settings)["blob_owners"])
    pending = contents(target.settings)["restored_erasures"]
    assert [("alice", "asked to")] * 2 == [(row["by_name"], row["reason"]) for row in pending]
    assert {f"{early}/payload", f"{late}/payload"} == {row["key"] for row in pending}


def test_a_time_ends_before_the_first_later_event(kept: Place, target: Place, tmp_path: Path) -> None:
    """A restore to a time has the events up to the first one after it."""
    kept.backup(tmp_path / "copy")
    events = kept.log().log.read(0, 1000)
    moment = events[70].event.at
    expected = next(n for n, e in enumerate(events) if e.event.at > moment)
    done = restore(tmp_path / "copy", target, Moment(millis=moment), continue_as="example.com/second")
    assert (expected, events[expected - 1].position) == (done.survey.size, target.head())


# --- what is not whole -------------------------------------------------------------------------------------
def rewrite(part: Path, change: Callable[[list[Any]], list[Any]]) -> None:
    """Change the lines of a part as somebody would who knows the format: the last line fits."""
    lines = [json.loads(line) for line in gzip.decompress(part.read_bytes()).split(b"\n")[:-1]]
    lines = change(lines[:-1])
    body = b"".join(
        json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for line in lines
    )
    counts = {"events": sum(x[0] == "event" for x in lines), "rows": sum(x[0] == "row" for x in lines)}
    end = ["end", {**counts, "sha256": hashlib.sha256(body).hexdigest()}]
    part.write_bytes(gzip.compress(body + json.dumps(end).encode() + b"\n"))
    manifest = part.parent.parent / "backup.json"
    said = json.loads(manifest.read_text())
    for named in said["parts"]:
        if named["file"] == part.name:
            named["bytes"] = part.stat().st_size
    manifest.write_text(json.dumps(said))


def changed_event(lines: list[Any]) -> list[Any]:
    """A job's price, or the like: any digit of an event's time."""
    number = next(n for n, line in enumerate(lines) if line[0] == "event" and n > 40)
    lines[number][6] = lines[number][6].replace('"by":"', '"by":"x', 1)
    return lines


def in_manifest(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "backup.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(bytes(content))


def swap(folder: Path) -> None:
    one, two, between = folder / "parts/000001.gz", folder / "parts/000002.gz", folder / "parts/x"
    one.rename(between)
    two.rename(one)
    between.rename(two)


def blob_of(folder: Path) -> Path:
    digest = sha(FILE)
    return folder / "blobs" / digest[:2] / digest[2:]


def in_row(table: str, change: Callable[[list[Any]], object]) -> Callable[[Path], None]:
    """Change the first row of a table in the first part."""

    def change_lines(lines: list[Any]) -> list[Any]:
        change(lines[next(n for n, line in enumerate(lines) if line[:2] == ["table", table]) + 1])
        return lines

    return lambda folder: rewrite(folder / "parts/000001.gz", change_lines)


def rename_columns(lines: list[Any]) -> list[Any]:
    next(line for line in lines if line[:2] == ["table", "payloads"])[2][0] = "other"
    return lines


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "backup.json").unlink(), "it has no backup.json"),
    "half a manifest": (lambda f: os.truncate(f / "backup.json", 100), "is not JSON"),
    "another version": (in_manifest(format="coordinator backup 2"), "this version reads"),
    "another version's tables": (in_manifest(migrations=["0001_start"]), "restore it with that version"),
    "another log": (in_manifest(log_id="other"), "of another log"),
    "a part is gone": (lambda f: (f / "parts/000002.gz").unlink(), "is missing"),
    "a truncated part": (lambda f: os.truncate(f / "parts/000001.gz", 2000), "it is damaged"),
    # What it changes depends on the compressed text around it: each check names the part.
    "a flipped byte": (lambda f: flip(f / "parts/000001.gz"), "000001.gz"),
    "parts swapped": (swap, "000001.gz"),
    "a changed event": (
        lambda f: rewrite(f / "parts/000001.gz", changed_event),
        "do not have the root of the checkpoint",
    ),
    "an event taken out": (
        lambda f: rewrite(f / "parts/000001.gz", lambda lines: lines[:30] + lines[31:]),
        "000001.gz",
    ),
    "a short row": (in_row("blob_owners", lambda row: row.pop()), "values for"),
    "a size of text": (in_row("checkpoints", lambda row: row.__setitem__(2, "5")), "an invalid size"),
    "no digest": (in_row("blob_refs", lambda row: row.__setitem__(2, None)), "an invalid"),
    "other columns": (lambda f: rewrite(f / "parts/000001.gz", rename_columns), "a row of payloads has"),
    "a table of readers": (
        lambda f: rewrite(
            f / "parts/000001.gz", lambda lines: [*lines, ["table", "jobs", ["a"]], ["row", 1]]
        ),
        "which no backup of this version has",
    ),
    "a blob is gone": (lambda f: blob_of(f).unlink(), "is missing"),
    "a damaged blob": (lambda f: blob_of(f).write_bytes(b"A" * len(FILE)), "is damaged"),
}


@pytest.mark.parametrize("kept", ["embedded"], indirect=True)
def test_a_damaged_backup_restores_nothing(kept: Place, target: Place, tmp_path: Path) -> None:
    """Whatever is wrong with the folder is told in words, by --check too, and the database stays empty."""
    whole = tmp_path / "whole"
    kept.backup(whole)
    kept.submit(uuid4())
    kept.notarize()
    kept.backup(whole)
    for name, (damage, words) in DAMAGE.items():
        copy = tmp_path / name.replace(" ", "_")
        shutil.copytree(whole, copy)
        damage(copy)
        with pytest.raises(BadBackup, match=words):
            restore(copy, target, check_only=True)
        with pytest.raises(BadBackup, match=words):
            restore(copy, target, same_origin=True)
        assert 0 == target.head(), name
        target.close()
    assert 0 < restore(whole, target, same_origin=True).survey.size
    with pytest.raises(LogNotEmpty):
        restore(whole, target, same_origin=True)


@pytest.mark.parametrize("kept", ["embedded"], indirect=True)
def test_a_folder_takes_the_one_log_that_it_has(kept: Place, target: Place, tmp_path: Path) -> None:
    """Another log, and a log that was restored and went on otherwise, need a folder of their own."""
    kept.backup(tmp_path / "copy")
    decided_log.write(target.log().log, 3)
    log_id_of(target.log().database)
    with pytest.raises(BadBackup, match="another log"):
        target.backup(tmp_path / "copy")

    other = Place(embedded(tmp_path / "other"))
    middle = kept.log().log.read(0, 60)[-1].position
    restore(tmp_path / "copy", other, Moment(middle), continue_as="example.com/second")
    with pytest.raises(BadBackup, match="the log was restored since"):
        other.backup(tmp_path / "copy")
    other.close()
    with BackupFolder(tmp_path / "copy").writing(), pytest.raises(BackupBusy):
        kept.backup(tmp_path / "copy")


def command(place: Place, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, "-m", "coordinator", *arguments, "--json"],
        env={**os.environ, "DATA_DIR": str(place.settings.data_dir), "DATABASE_URL": "", "AMQP_URL": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kept", ["embedded"], indirect=True)
def test_a_full_disk_and_a_kill_leave_what_was_whole(kept: Place, target: Place, tmp_path: Path) -> None:
    """A run that finds no space, or is killed, leaves the backup before it; the next one does it all."""
    copy = tmp_path / "copy"
    kept.backup(copy)
    before = (copy / "backup.json").read_bytes()
    for number in range(400):
        kept.submit(uuid4(), f"{number} " + os.urandom(200).hex())
    kept.close()
    full = command(kept, "backup", str(copy), before=("prlimit", "--fsize=50000"))
    _, said = full.communicate(timeout=60)
    assert (2, "FILE") == (full.returncode, json.loads(said.splitlines()[-1])["code"])
    assert before == (copy / "backup.json").read_bytes()
    (copy / "parts" / "000002.gz.new").write_bytes(b"half a part")  # as a kill leaves it
    (copy / "parts" / "000002.gz").write_bytes(b"a part that no manifest names")
    made_again = kept.backup(copy)
    assert (2, 400) == (len(made_again.manifest.parts), made_again.added_events)
    assert not list((copy / "parts").glob("*.new"))

    killed = command(target, "restore", str(copy), "--same-origin")
    file = target.settings.data_dir / DATABASE_FILE
    while not file.exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    if target.head():  # it was quicker: then all of it is there
        assert made_again.manifest.events == len(target.log().hashes())
    else:
        target.close()
        restored = command(target, "restore", str(copy), "--same-origin")
        out, said = restored.communicate(timeout=60)
        assert 0 == restored.returncode, said
        assert made_again.manifest.events == json.loads(out)["events"]
    kept.notarize()
    target.notarize()
    assert kept.rows()["stored_events"] == target.rows()["stored_events"]


def test_a_missing_blob_is_told_and_stops_no_backup(kept: Place, tmp_path: Path) -> None:
    """A blob that the store lost is named in the backup, and a blob that nobody names any more is not."""
    for file in (kept.settings.data_dir / "blobs").glob("[0-9a-f][0-9a-f]/*"):
        file.unlink()
    assert (sha(FILE),) == kept.backup(tmp_path / "copy").manifest.missing_blobs


@pytest.mark.parametrize("kept", ["embedded"], indirect=True)
def test_a_checkpoint_of_another_history_is_told(kept: Place, target: Place, tmp_path: Path) -> None:
    """The file beside the database has signed other events of the same size: only a new name is left."""
    kept.backup(tmp_path / "copy")
    size = len(kept.log().hashes())
    other = Checkpoint(ORIGIN, size - 3, b"o" * 32)
    target.settings.data_dir.mkdir(mode=0o700)
    CheckpointFile(target.settings.data_dir / "checkpoint").store(sign_checkpoint(KEY, other))
    with pytest.raises(HistorySigned, match="has gone on otherwise since"):
        restore(tmp_path / "copy", target)
    assert size == restore(tmp_path / "copy", target, continue_as="example.com/second").survey.size
