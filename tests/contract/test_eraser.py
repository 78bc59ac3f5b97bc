"""The eraser on both databases: content goes, and its bytes are given back once, whatever is repeated."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from coordinator.application.followers.eraser import Eraser
from coordinator.application.ports import NewEvent, PayloadKind, PositionMoved, Recorded, StoredPayload
from coordinator.domain.content import CONTENT_KINDS, ContentErased, ContentKind, content_stream
from coordinator.domain.messages import SYSTEM
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.sqlite import SqliteDatabase
from tests.contract.test_followers import PAYLOAD, SALT, T0, Stores, stores, submitted
from tests.harness import deciding
from tests.harness.metadata import METADATA

__all__ = ["stores"]

PAYLOAD_BYTES, RESULT_BYTES = 100, 10
FILE, SHARED = "a" * 64, "b" * 64


class Erasing:
    """A log with completed jobs, and an eraser that a test drives by hand, batch by batch."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.forgotten: list[UUID] = []

    def completed(self, client: str = "alice", files: Sequence[str] = ()) -> UUID:
        """A new completed job, whose payload refers to these files."""
        job = uuid4()
        common: dict[str, Any] = {"job_id": job, "client": client}
        first = submitted(**common, payload_bytes=PAYLOAD_BYTES)
        done = deciding.completed(miner_id="node1@rig", result_bytes=RESULT_BYTES).model_copy(update=common)
        stored = [StoredPayload(job, kind, SALT, PAYLOAD) for kind in CONTENT_KINDS]
        events = [first, deciding.started().model_copy(update=common), done]
        self.stores.log.append([NewEvent(job, n, e, METADATA) for n, e in enumerate(events, 1)], stored)
        with self.stores.database.transaction() as tables:
            tables.execute("quotas_add_bytes", name=client, payload_bytes=110, blob_bytes=0)
            refs = [
                {
                    "key": f"{file}/{job}/payload",
                    "digest": file,
                    "job_id": str(job),
                    "kind": "payload",
                    "at": 1,
                }
                for file in files
            ]
            tables.put("blob_refs", refs)
        return job

    def ask(
        self, jobs: Sequence[UUID], kinds: Sequence[ContentKind] = CONTENT_KINDS, by: str = "alice"
    ) -> None:
        event = ContentErased(
            at=T0, by=by, jobs=tuple(jobs), kinds=tuple(kinds), client="alice", reason="asked to"
        )
        stream = content_stream(jobs, kinds)
        self.stores.log.append([NewEvent(stream, 1, event, METADATA)])

    async def follow(self, *, dies: str = "") -> None:
        """What the runner does with all new events. `dies`: after `act`, or before the commit."""
        eraser = Eraser(self.stores.log, self.stores.clock, self.forgotten.extend)
        database, log = self.stores.database, self.stores.log
        with database.transaction() as tables:
            before = tables.position(eraser.name)
            eraser.take_over(tables)
        events: list[Recorded] = log.read(before, 1000)
        await eraser.act(events)
        assert eraser.hurried == any(isinstance(e.event, ContentErased) for e in events)
        if dies == "after act" or not events:
            return
        self.store(eraser, before, events, dies=bool(dies))
        await eraser.tick(events[-1].position)
        assert not eraser.hurried

    def store(self, eraser: Eraser, before: int, events: Sequence[Recorded], *, dies: bool = False) -> None:
        """One batch, as the runner does it. With `dies` nothing is committed."""
        with self.stores.database.transaction() as tables:
            eraser.apply(tables, events)
            tables.move(eraser.name, before, events[-1].position)
            if dies:
                raise KeyboardInterrupt

    def used(self, client: str = "alice") -> int:
        with self.stores.database.transaction() as tables:
            rows = {row["name"]: row["payload_bytes"] for row in tables.query("quotas_stored")}
        return int(rows[client])

    def left(self, jobs: Sequence[UUID], kind: PayloadKind) -> set[UUID]:
        return set(self.stores.log.payloads(kind, jobs))

    def keys(self, statement: str, **params: Any) -> set[str]:
        with self.stores.database.transaction() as tables:
            rows = tables.query(statement, **params)
        return {row.get("key") or row["digest"] for row in rows}


@pytest.fixture
def erasing(stores: Stores) -> Erasing:
    return Erasing(stores)


async def test_an_erasure_deletes_what_it_names_and_nothing_else(erasing: Erasing) -> None:
    """Of one kind first, then of the other: each gives back its own bytes, and other jobs keep theirs."""
    job, other = erasing.completed(), erasing.completed()
    erasing.ask([job], ["result"])
    await erasing.follow()
    assert {job, other} == erasing.left([job, other], "payload")
    assert {other} == erasing.left([job, other], "result")
    assert 2 * 110 - RESULT_BYTES == erasing.used()
    erasing.ask([job])
    await erasing.follow()
    assert {other} == erasing.left([job, other], "payload")
    assert 110 == erasing.used()
    assert [job, job] == erasing.forgotten
    keys = {f"{job}/{kind}" for kind in CONTENT_KINDS}
    assert keys == erasing.keys("erased_content_of", keys=[*keys, f"{other}/payload"])


async def test_nothing_of_it_is_left_in_the_files(tmp_path: Path) -> None:
    """Neither in the database file nor in its write-ahead log, even if an older reader was in the way."""
    path = tmp_path / "c.db"
    migrate(path)
    with closing(SqliteEventLog(path)) as log, closing(SqliteDatabase(path)) as database:
        erasing = Erasing(Stores(log, database))
        job = erasing.completed()

        def found() -> list[str]:
            return sorted(file.name for file in tmp_path.iterdir() if PAYLOAD in file.read_bytes())

        assert found()
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM payloads").fetchone() == (2,)
            erasing.ask([job])
            await erasing.follow()
            assert found()  # the reader may still need it
            assert not log.scrub()
        assert log.scrub()
        assert [] == found()
        erasing.ask([erasing.completed()])
        await erasing.follow()
        assert [] == found()


@pytest.mark.parametrize("dies", ["after act", "before the commit"])
async def test_a_crash_gives_back_once(erasing: Erasing, dies: str) -> None:
    """Content that is gone before the crash is counted after it; and never again, by any later erasure."""
    job = erasing.completed()
    erasing.ask([job])
    if dies == "after act":
        await erasing.follow(dies=dies)
    else:
        with pytest.raises(KeyboardInterrupt):
            await erasing.follow(dies=dies)
    assert 110 == erasing.used()
    assert set() == erasing.left([job], "payload") | erasing.left([job], "result")
    for kinds in (None, ["payload"], ["result"]):
        if kinds is not None:
            erasing.ask([job], kinds)  # type: ignore[arg-type]
        await erasing.follow()
        assert 0 == erasing.used()
    await erasing.follow()
    assert 0 == erasing.used()


async def test_two_erasures_of_a_job_in_one_batch_give_back_once(erasing: Erasing) -> None:
    """The first event is the one that readers are told of."""
    job, other = erasing.completed(), erasing.completed()
    erasing.ask([job])
    erasing.ask(sorted([job, other]))
    first = erasing.stores.log.head() - 1
    await erasing.follow()
    assert 0 == erasing.used()
    with erasing.stores.database.transaction() as tables:
        rows = tables.query("erased_content_of", keys=[f"{job}/payload", f"{other}/payload"])
    assert {f"{job}/payload": first, f"{other}/payload": first + 1} == {
        row["key"]: row["position"] for row in rows
    }


async def test_a_replaced_leader_writes_nothing(erasing: Erasing) -> None:
    """Its position has moved: the new leader has given the bytes back."""
    job = erasing.completed()
    erasing.ask([job])
    eraser = Eraser(erasing.stores.log, erasing.stores.clock)
    events = erasing.stores.log.read(0, 100)
    await eraser.act(events)
    await erasing.follow()
    with pytest.raises(PositionMoved):
        erasing.store(eraser, 0, events)
    assert 0 == erasing.used()


@pytest.mark.parametrize(("by", "uploads"), [("alice", True), (SYSTEM.name, False)])
async def test_files_lose_the_erased_job(erasing: Erasing, by: str, uploads: bool) -> None:
    """Their content may go; the uploads go with it if somebody asked, and not by age alone."""
    job, other = erasing.completed(files=[FILE, SHARED]), erasing.completed(files=[SHARED])
    erasing.ask([job], by=by)
    await erasing.follow()
    refs = erasing.keys("expiry_refs_of_jobs", job_ids=[str(job), str(other)], kind="payload")
    assert {f"{SHARED}/{other}/payload"} == refs
    assert {FILE, SHARED} == erasing.keys("expiry_removals", before=2**53, count=10)
    wanted = {f"{FILE}/alice", f"{SHARED}/alice"} if uploads else set()
    assert wanted == erasing.keys("erased_uploads", before=2**53, count=10)
