"""The check that every fault test ends with: it passes on a log in order, and sees what is not."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import invariants
from tests.harness.stage import Stage
from tests.harness.waiting import eventually, eventually_now

COMPLETED = "topic = 'job.completed.v1'"
SWAP = "UPDATE stored_events SET state = CAST(replace(state, '%s', '%s') AS BLOB)"
MORE_UNITS = SWAP % ('units":"', 'units":"1')
ANOTHER_ATTEMPT = SWAP % ('attempt":1', 'attempt":2')
COPY = """INSERT INTO stored_events (originator_id, originator_version, topic, state, metadata)
SELECT originator_id, originator_version + 1, topic, state, metadata FROM stored_events"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Three finished jobs of an embedded coordinator that has stopped."""
    with Stage(tmp_path_factory.mktemp("tampered")) as stage:
        coordinator = stage.coordinator(dies=("never", 1))
        eventually_now(lambda: stage.health()["ready"], "ready")
        stage.miner("rig1")

        async def work() -> None:
            async with stage.client() as client:
                jobs = [await client.submit("checksum", {"text": f"{n}"}) for n in range(3)]
                await stage.ended([job.job_id for job in jobs])
            await eventually(lambda: set(stage.log.positions().values()) == {stage.log.head()}, "caught up")

        asyncio.run(work())
        coordinator.stop()
        yield stage


LOG = "stored_events"


@pytest.mark.parametrize(
    ("tampering", "told"),
    [
        ("SELECT 1", None),
        (
            f"DELETE FROM stored_events WHERE rowid = (SELECT MAX(rowid) FROM {LOG} WHERE {COMPLETED})",
            "left RUNNING|too many",
        ),
        ("DELETE FROM stored_events WHERE topic = 'job.started.v1'", "version 3 where 2 was due"),
        (MORE_UNITS, "units is"),
        (f"{COPY} WHERE {COMPLETED}", "after it was COMPLETED"),
        (ANOTHER_ATTEMPT, "attempt 2 was started"),
        ("UPDATE jobs SET state = 'QUEUED'", "the table says"),
        ("UPDATE jobs SET miner_id = 'somebody'", "differs in miner_id"),
        ("UPDATE jobs SET price = '0.5'", "price is not the log's"),
        ("UPDATE payloads SET body = X'7B7D' WHERE kind = 'result'", "the stored result"),
        (
            (
                "INSERT INTO open_work SELECT job_id, 1, '', '', 0, 0, '', '', 0, 0, NULL, NULL, '', '' "
                "FROM jobs"
            ),
            "open_work",
        ),
    ],
)
async def test_what_is_not_in_order_is_seen(
    stage: Stage, tmp_path: Path, tampering: str, told: str | None
) -> None:
    """Each way to spoil a log, a read model or a table is a violation with a name."""
    source = stage.log.source
    assert isinstance(source, Path)
    spoilt = tmp_path / "coordinator.db"
    shutil.copy(source, spoilt)
    connection = sqlite3.connect(spoilt)
    with connection:
        connection.execute(tampering)
    connection.close()
    checking = invariants.check(spoilt, coordinator_key=stage.coordinator_key)
    if told is None:
        assert {"COMPLETED": 3} == (await checking).states()
    else:
        with pytest.raises(AssertionError, match=told):
            await checking


async def test_what_was_accepted_must_be_there(stage: Stage) -> None:
    """A job that was accepted and that no event knows is a violation; so is another key's receipt."""
    job_id = "0190163d-8694-739b-aea5-966c26f8ad91"
    with pytest.raises(AssertionError, match=f"{job_id}: accepted, and not in the log"):
        await invariants.check(stage.log.source, coordinator_key=stage.coordinator_key, accepted=[job_id])
    with pytest.raises(AssertionError, match="not among the trusted keys"):
        await invariants.check(stage.log.source, coordinator_key="A" * 43)
