"""The notary on SQLite and Postgres: the tree it builds, and every way in which it refuses another log."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.followers.runner import FollowerRunner
from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.ports import PositionMoved
from coordinator.application.proof.errors import (
    LeavesDiffer,
    LogWentBack,
    RootDiffers,
    UnknownOrigin,
    WrongOrigin,
)
from coordinator.application.proof.memory import NoMemory
from coordinator.application.proof.origins import continue_as
from coordinator.application.proof.proofs import BeyondTheCheckpoint, NotPublished, UnknownPosition
from coordinator.crypto.log.checkpoint import Checkpoint, log_key, sign_checkpoint, verify_checkpoint
from coordinator.crypto.log.leaf import read_leaf
from coordinator.crypto.log.tiles import Tile, hashes_in
from coordinator.crypto.merkle import leaf_hash, root_of, verify_consistency, verify_inclusion
from coordinator.storage.checkpoint_file import CheckpointFile
from coordinator.storage.migrate import is_postgres
from coordinator.storage.tables.leadership import LocalLeadership
from tests.harness.notarizing import KEY, ORIGIN, NotarizedLog
from tests.harness.waiting import eventually


@pytest.fixture(params=["sqlite", "postgres"])
def notarized(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NotarizedLog]:
    target = str(tmp_path / "c.db") if request.param == "sqlite" else request.getfixturevalue("database_url")
    made = NotarizedLog(target, tmp_path / "checkpoint")
    yield made
    made.close()


async def test_the_tree_is_that_of_the_stored_events(notarized: NotarizedLog) -> None:
    """Root, tiles, leaves and proofs of 700 events are those of the rows in the database, in any batches."""
    notarized.append(300)
    await notarized.follow(notarized.notary(), batch=70)
    notarized.append(400)
    await notarized.follow(notarized.notary(), batch=999)
    hashes, proofs = notarized.hashes(), notarized.proofs
    published = proofs.published()

    assert Checkpoint(ORIGIN, 700, root_of(hashes)) == published.signed.checkpoint
    assert log_key(KEY, ORIGIN) == verify_checkpoint(published.signed, [log_key(KEY, ORIGIN)]).log_key
    assert hashes[256:512] == hashes_in(proofs.tile(Tile(0, 1), 256))
    assert hashes[512:700] == hashes_in(proofs.tile(Tile(0, 2), 188))
    assert [root_of(hashes[:256]), root_of(hashes[256:512])] == hashes_in(proofs.tile(Tile(1, 0), 2))
    leaves = proofs.entries(2, 100)
    assert hashes[512:612] == [leaf_hash(leaf) for leaf in leaves]
    events = notarized.log.read(0, 1000)
    assert [event.position for event in events[512:612]] == [read_leaf(leaf).position for leaf in leaves]
    for index in (0, 299, 300, 511, 699):
        proof, _ = proofs.inclusion(events[index].position)
        assert (index, hashes[index], 700) == (proof.index, proof.leaf_hash, proof.size)
        assert verify_inclusion(hashes[index], index, 700, proof.path, root_of(hashes))
    for old in (0, 1, 70, 256, 300, 699, 700):
        size, path, _ = proofs.consistency(old)
        assert verify_consistency(old, size, path, root_of(hashes[:old]), root_of(hashes))


async def test_each_stored_checkpoint_is_signed_once_and_announced(notarized: NotarizedLog) -> None:
    """A batch makes one checkpoint, and a tree that has not grown makes none; the file has the last one."""
    notarized.append(20)
    await notarized.follow(notarized.notary(), batch=10)
    await notarized.follow(notarized.notary())

    assert [10, 20] == [signed.checkpoint.checkpoint.size for signed in notarized.signed]
    assert [(10,), (20,)] == notarized.sql("SELECT size FROM checkpoints ORDER BY size")
    assert notarized.signed[-1].checkpoint == CheckpointFile(notarized.file).load()
    for signed in notarized.signed:
        assert [log_key(KEY, ORIGIN)] == [
            key for key, _ in signed.checkpoint.note.signed_by([log_key(KEY, ORIGIN)])
        ]


async def test_a_log_far_behind_is_not_signed_at_every_batch(notarized: NotarizedLog) -> None:
    """While thousands of events wait, a checkpoint a second is enough; the last batch is signed."""
    head = [1_000_000]
    notary = notarized.notary(head=lambda: head[0])
    position = notarized.start(notary)
    sizes = []
    for at, seconds in ((1_000_000, 2.0), (1_000_000, 0.1), (1_000_000, 0.1), (1_000_000, 2.0), (0, 0.1)):
        head[0] = at
        notarized.monotonic += seconds
        position = notarized.store(notary, position, notarized.append(10))
        sizes.append(notarized.published().size)

    assert [10, 10, 10, 40, 50] == sizes


async def test_a_rebuild_gives_the_same_tiles_and_signs_no_other_root(notarized: NotarizedLog) -> None:
    """Tiles that are thrown away come back the same, compared at each checkpoint; none is signed again."""
    notarized.append(600)
    await notarized.follow(notarized.notary(), batch=250)
    tiles, signed = notarized.tiles(), len(notarized.signed)
    forget_tree(notarized)
    await notarized.follow(notarized.notary(), batch=1000)

    assert tiles == notarized.tiles()
    assert [(250,), (500,), (600,)] == notarized.sql("SELECT size FROM checkpoints ORDER BY size")
    assert 600 == notarized.published().size
    assert signed == len(notarized.signed) - 1  # the last one is announced again, with the same note
    assert notarized.signed[-1].checkpoint == notarized.signed[-2].checkpoint


async def test_a_rebuild_over_a_changed_event_stops_at_the_first_checkpoint(notarized: NotarizedLog) -> None:
    """A tree derived from a changed event does not have the root that was signed, and is not stored."""
    notarized.append(600)
    await notarized.follow(notarized.notary(), batch=250)
    change_event(notarized, 300)
    forget_tree(notarized)

    with pytest.raises(RootDiffers, match="first 500 events"):
        await notarized.follow(notarized.notary(), batch=1000)
    assert [] == notarized.tiles()


async def test_a_smaller_log_is_never_signed(notarized: NotarizedLog, tmp_path: Path) -> None:
    """With an older copy of the database the notary stops, and signs nothing, however the log goes on."""
    notarized.append(30)
    await notarized.follow(notarized.notary())
    restore = backup(notarized, tmp_path)
    notarized.append(30)
    await notarized.follow(notarized.notary())
    restore()
    signed = len(notarized.signed)

    with pytest.raises(LogWentBack, match="has 30 events, but the file checkpoint has its checkpoint of 60"):
        await notarized.follow(notarized.notary())
    notarized.append(20)
    with pytest.raises(LogWentBack, match="has 50 events"):
        await notarized.follow(notarized.notary())
    notarized.append(20)
    with pytest.raises(RootDiffers, match="first 60 events"):
        await notarized.follow(notarized.notary())
    assert signed == len(notarized.signed)
    assert 30 == notarized.published().size
    assert 60 == remembered_size(notarized)


async def test_a_log_that_comes_back_whole_is_signed_on(notarized: NotarizedLog, tmp_path: Path) -> None:
    """Tables of an older copy over the whole log are no restored log: the notary catches up and goes on."""
    notarized.append(30)
    await notarized.follow(notarized.notary())
    tiles, positions = older_tables(notarized)
    notarized.append(30)
    await notarized.follow(notarized.notary())
    tiles()
    positions()
    await notarized.follow(notarized.notary())
    assert Checkpoint(ORIGIN, 60, root_of(notarized.hashes())) == notarized.published()
    notarized.append(5)
    await notarized.follow(notarized.notary())
    assert Checkpoint(ORIGIN, 65, root_of(notarized.hashes())) == notarized.published()


async def test_a_lost_checkpoint_row_comes_back_from_the_file(notarized: NotarizedLog) -> None:
    """A checkpoint rolled back in the database is restored with the same note, not signed anew."""
    notarized.append(30)
    await notarized.follow(notarized.notary())
    notarized.append(30)
    await notarized.follow(notarized.notary())
    before = notarized.sql("SELECT size, note FROM checkpoints ORDER BY size")
    notarized.sql("DELETE FROM checkpoints WHERE size = 60")
    assert 30 == notarized.published().size
    await notarized.follow(notarized.notary())

    assert before == notarized.sql("SELECT size, note FROM checkpoints ORDER BY size")


async def test_a_forged_checkpoint_row_stops_the_notary(notarized: NotarizedLog) -> None:
    """A stored checkpoint that is not the tree's, or has a wrong signature, is found at the start."""
    notarized.append(30)
    await notarized.follow(notarized.notary())
    forged = sign_checkpoint(KEY, Checkpoint(ORIGIN, 30, bytes(32))).text
    [(note,)] = notarized.sql("SELECT note FROM checkpoints")
    for text in (forged, note.replace(note.splitlines()[2], forged.splitlines()[2])):
        notarized.sql(f"UPDATE checkpoints SET note = '{text}'")
        with pytest.raises(RootDiffers, match="first 30 events"):
            notarized.start(notarized.notary(NoMemory()))


async def test_a_changed_event_is_found_at_the_start_and_while_running(notarized: NotarizedLog) -> None:
    """The last events are hashed again at the start, all others in turn; entries are refused as well."""
    notarized.append(2000)
    await notarized.follow(notarized.notary())
    change_event(notarized, 1990)
    with pytest.raises(LeavesDiffer, match="from index 1989 on"):
        notarized.start(notarized.notary())
    change_event(notarized, 1990)  # back
    change_event(notarized, 300)
    notary = notarized.notary()
    position = notarized.start(notary)
    notarized.monotonic += 1.5
    await notary.tick(position)  # the first tile is as it was
    notarized.monotonic += 1.5
    with pytest.raises(LeavesDiffer, match="from index 299 on"):
        await notary.tick(position)
    with pytest.raises(LeavesDiffer, match="from index 299 on"):
        notarized.proofs.entries(1, 256)
    assert 256 == len(notarized.proofs.entries(0, 256))


async def test_a_dropped_event_is_found(notarized: NotarizedLog) -> None:
    """An event that is gone from the log is named by its index."""
    notarized.append(600)
    await notarized.follow(notarized.notary())
    notarized.sql("DELETE FROM stored_events WHERE {position} = 5")
    with pytest.raises(LeavesDiffer, match="from index 4 on"):
        notarized.start(notarized.notary())


async def test_another_coordinators_file_is_refused(notarized: NotarizedLog) -> None:
    """A checkpoint of a name that the database does not know, and a setting with another name, stop it."""
    notarized.append(3)
    CheckpointFile(notarized.file).store(sign_checkpoint(KEY, Checkpoint("other", 1, bytes(32))))
    with pytest.raises(UnknownOrigin, match="the log other"):
        notarized.start(notarized.notary())
    notarized.file.unlink()
    await notarized.follow(notarized.notary())
    with pytest.raises(WrongOrigin, match="LOG_ORIGIN is elsewhere"):
        notarized.start(notarized.notary(origin="elsewhere"))
    assert ORIGIN == notarized.published().origin


async def test_a_log_without_a_name_is_called_after_its_id(notarized: NotarizedLog) -> None:
    """Without LOG_ORIGIN the origin is the log's id, for good."""
    notarized.append(3)
    await notarized.follow(notarized.notary(origin=None))
    [(log_id,)] = notarized.sql("SELECT log_id FROM log_identity")
    await notarized.follow(notarized.notary(origin=None))

    assert f"coordinator/{log_id}" == notarized.published().origin


async def test_an_operator_continues_under_a_new_name(notarized: NotarizedLog, tmp_path: Path) -> None:
    """After the decision a restored log is signed from its beginning, under another name only."""
    notarized.append(30)
    await notarized.follow(notarized.notary())
    restore = backup(notarized, tmp_path)
    notarized.append(30)
    await notarized.follow(notarized.notary())
    restore()
    memory = CheckpointFile(notarized.file)
    with pytest.raises(ValueError, match="choose another name"):
        continue_as(notarized.database, ORIGIN, memory.load(), "lost disk", notarized.now)
    assert ORIGIN == continue_as(notarized.database, "example.com/two", memory.load(), "lost", notarized.now)
    notarized.append(5)
    with pytest.raises(NotPublished):
        notarized.published()
    await notarized.follow(notarized.notary(origin=None))

    assert Checkpoint("example.com/two", 35, root_of(notarized.hashes())) == notarized.published()
    assert "example.com/two" == notarized.proofs.names().origin
    assert [ORIGIN] == list(notarized.proofs.names().former)
    await notarized.follow(notarized.notary(origin=None))
    restore()  # a copy from before the decision
    with pytest.raises(UnknownOrigin, match="the log example"):
        notarized.start(notarized.notary(origin=None))


async def test_a_crash_between_the_file_and_the_tables_is_made_good(notarized: NotarizedLog) -> None:
    """A batch that was signed and not stored is derived again, compared, and has its first signature."""
    notarized.append(30)
    await notarized.follow(notarized.notary())
    notary = notarized.notary()
    position = notarized.start(notary)
    events = notarized.append(10)

    with pytest.raises(KeyboardInterrupt):
        notarized.store(notary, position, events, dies=True)
    assert (30, 40) == (notarized.published().size, remembered_size(notarized))
    signed = CheckpointFile(notarized.file).load()
    notarized.append(10)
    await notarized.follow(notarized.notary(), batch=15)
    await notarized.follow(notarized.notary())

    assert Checkpoint(ORIGIN, 50, root_of(notarized.hashes())) == notarized.published()
    rows = dict(notarized.sql("SELECT size, note FROM checkpoints"))
    assert signed is not None
    assert {30, 40, 45, 50} == set(rows)
    assert signed.text == rows[40]


async def test_a_witness_remembers_more_than_the_coordinator(notarized: NotarizedLog) -> None:
    """Without a file, a larger log that a witness had signed at the start keeps a smaller one unsigned."""
    notarized.append(30)
    notary = notarized.notary(NoMemory())
    notary.witnessed = lambda: ("w1", 60)
    with pytest.raises(LogWentBack, match="has 30 events, but the witness w1 has its checkpoint of 60"):
        await notarized.follow(notary)
    assert [] == notarized.signed
    notarized.append(31)  # the events were there, and the tables were behind
    await notarized.follow(notary)
    assert Checkpoint(ORIGIN, 61, root_of(notarized.hashes())) == notarized.published()


async def test_the_former_leader_can_sign_nothing(notarized: NotarizedLog) -> None:
    """After a takeover the former leader's batch fails: neither tiles nor checkpoints of it are stored."""
    notarized.append(10)
    old, new = notarized.notary(), notarized.notary()
    position = notarized.start(old)
    await notarized.follow(new)
    notarized.append(10)
    await notarized.follow(new)
    events = notarized.log.read(position, 100)
    rows = notarized.tiles(), notarized.sql("SELECT size, note FROM checkpoints ORDER BY size")

    with pytest.raises(PositionMoved):
        notarized.store(old, position, events)
    assert rows == (notarized.tiles(), notarized.sql("SELECT size, note FROM checkpoints ORDER BY size"))


async def test_runners_take_over_from_each_other(notarized: NotarizedLog) -> None:
    """Two runners with leaders' rights in turn grow one tree, while events arrive."""
    feed, watermarks = EventFeed(notarized.log), LocalWatermarks(notarized.database)
    await feed.start()
    try:
        for _ in range(3):
            notary = notarized.notary()
            notary.linger_seconds = 0.01
            runner = FollowerRunner(notary, feed, notarized.database, LocalLeadership(), watermarks)
            await runner.start()
            notarized.append(40)
            head = notarized.append(40)[-1].position

            def caught_up(at: int = head, running: FollowerRunner = runner) -> bool:
                return running.position == at

            await eventually(caught_up)
            assert [] == runner.problems()
            await runner.stop()
    finally:
        await feed.stop()
    assert Checkpoint(ORIGIN, 240, root_of(notarized.hashes())) == notarized.published()


async def test_a_restored_log_turns_the_health_red(notarized: NotarizedLog, tmp_path: Path) -> None:
    """The runner of a notary with an older copy has failed, and says so with what to do."""
    notarized.append(3)
    restore = backup(notarized, tmp_path)
    notarized.append(3)
    await notarized.follow(notarized.notary())
    restore()
    feed = EventFeed(notarized.log)
    await feed.start()
    runner = FollowerRunner(
        notarized.notary(), feed, notarized.database, LocalLeadership(), LocalWatermarks(notarized.database)
    )
    await runner.start()
    try:
        async with asyncio.timeout(60):
            while runner.status != "failed":  # noqa: ASYNC110 - the runner has no signal for it
                await asyncio.sleep(0.02)
        [problem] = runner.problems()
    finally:
        await runner.stop()
        await feed.stop()
    assert problem.startswith(
        "notary stopped: LogWentBack: the log example.com/log has 3 events, but the file"
    )
    assert "coordinator log continue-as NEW_ORIGIN" in problem


async def test_no_proof_of_what_the_checkpoint_does_not_cover(notarized: NotarizedLog) -> None:
    """Unknown positions, later events, other sizes and other tiles are refused, each by its kind."""
    proofs = notarized.proofs
    with pytest.raises(NotPublished):
        proofs.published()
    positions = [event.position for event in notarized.append(300)]
    await notarized.follow(notarized.notary())
    later = notarized.append(1)[0].position
    stream = uuid4()
    notarized.append(streams=[stream])

    for position, size in ((later, None), (positions[10], 301), (positions[10], 10)):
        with pytest.raises(BeyondTheCheckpoint):
            proofs.inclusion(position, size)
    with pytest.raises(UnknownPosition):
        proofs.inclusion(0)
    assert 11 == proofs.inclusion(positions[10], 11)[0].size
    for old, size in ((301, None), (5, 301), (5, 4)):
        with pytest.raises(BeyondTheCheckpoint):
            proofs.consistency(old, size)
    for tile, width in ((Tile(0, 1), 45), (Tile(0, 2), 1), (Tile(1, 0), 2), (Tile(0, 0), 0), (Tile(2, 0), 1)):
        with pytest.raises(BeyondTheCheckpoint):
            proofs.tile(tile, width)
    assert 44 * 32 == len(proofs.tile(Tile(0, 1), 44))


def remembered_size(notarized: NotarizedLog) -> int:
    signed = CheckpointFile(notarized.file).load()
    assert signed is not None
    return signed.checkpoint.size


def forget_tree(notarized: NotarizedLog) -> None:
    notarized.sql("DELETE FROM merkle_tiles")
    notarized.sql("DELETE FROM positions WHERE follower = 'notary'")


def change_event(notarized: NotarizedLog, place: int) -> None:
    """Change the `place`-th event (from 1); a second call changes it back."""
    position = notarized.log.read(0, place)[-1].position
    [(state,)] = notarized.sql(f"SELECT state FROM stored_events WHERE {{position}} = {position}")
    text, fields = bytes(state).decode(), ('"payload_bytes":0', '"payload_bytes":1')
    old, new = fields if fields[0] in text else fields[::-1]
    changed = text.replace(old, new)
    assert changed != text
    value = (
        f"'\\x{changed.encode().hex()}'" if is_postgres(notarized.target) else f"X'{changed.encode().hex()}'"
    )
    notarized.sql(f"UPDATE stored_events SET state = {value} WHERE {{position}} = {position}")


def backup(notarized: NotarizedLog, folder: Path) -> Callable[[], None]:
    """Keep a copy of log and tables; the returned function puts it back."""
    tables = ("stored_events", "merkle_tiles", "positions", "checkpoints", "log_origins")
    if is_postgres(notarized.target):
        for table in tables:
            notarized.sql(f"CREATE TABLE copy_of_{table} AS SELECT * FROM {table}")

        def restore() -> None:
            for table in tables:
                notarized.sql(f"DELETE FROM {table}")
                notarized.sql(f"INSERT INTO {table} SELECT * FROM copy_of_{table}")

        return restore
    notarized.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(notarized.target, folder / "copy.db")

    def restore_file() -> None:
        notarized.close()
        for beside in ("-wal", "-shm"):
            Path(notarized.target + beside).unlink(missing_ok=True)
        shutil.copy(folder / "copy.db", notarized.target)
        notarized.open()

    return restore_file


def older_tables(notarized: NotarizedLog) -> tuple[Callable[[], None], Callable[[], None]]:
    """Functions that put back the tree's tables and the position as they are now."""
    for table in ("merkle_tiles", "positions", "checkpoints"):
        notarized.sql(f"CREATE TABLE copy_of_{table} AS SELECT * FROM {table}")

    def put_back(*names: str) -> None:
        for table in names:
            notarized.sql(f"DELETE FROM {table}")
            notarized.sql(f"INSERT INTO {table} SELECT * FROM copy_of_{table}")

    return (lambda: put_back("merkle_tiles", "checkpoints")), (lambda: put_back("positions"))
