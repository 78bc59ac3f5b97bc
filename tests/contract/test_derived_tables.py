"""Every derived table, folded from the log again: what differs is named, and a rebuild gives equal rows."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from coordinator.application.ports import CoordinatorRuns, NewEvent
from coordinator.domain.standing import StandingQuarantined, standing_stream
from coordinator.runtime.projections import check_projections, rebuild_all
from coordinator.storage.tables.leadership import PostgresLeadership, nobody_leads
from tests.contract.test_backup import QUIET, Place, kept
from tests.harness import deciding as made
from tests.harness.metadata import METADATA

__all__ = ["kept"]

DAMAGE = {
    "jobs": "UPDATE jobs SET priority = priority + 1",
    "miners": "UPDATE miners SET concurrency = concurrency + 1",
    "services": "UPDATE services SET category = 'x'",
    "open_work": "UPDATE open_work SET attempt = attempt + 1",
    "work_classes": "UPDATE work_classes SET service = 'x'",
    "work_sessions": "DELETE FROM work_sessions WHERE state = 'ONLINE'",
    "standings": "UPDATE standings SET completed = completed + 1",
    "leases": "DELETE FROM leases",
    "live_sessions": "UPDATE live_sessions SET session_id = 'x'",
    "quota_usage": "UPDATE quota_usage SET payload_bytes = payload_bytes + 1, blob_bytes = blob_bytes + 1",
    "erased_content": "DELETE FROM erased_content",
    "merkle_tiles": "UPDATE merkle_tiles SET first_position = first_position + 1",
}
"""By table: a change that no event tells."""


def add_open_work(place: Place) -> None:
    """A queued, a running and an erased job, and a quarantine, beside those that have ended."""
    queued, running, erased = uuid4(), uuid4(), uuid4()
    for job in (queued, running, erased):
        place.submit(job)
    started = made.started().model_copy(update={"job_id": running})
    quarantined = StandingQuarantined(
        at=made.T0 + 5, by="root", principal="farm", service=None, reason="a test", probes=False
    )
    place.log().log.append(
        [
            NewEvent(running, 2, started, METADATA),
            NewEvent(standing_stream("farm", None), 1, quarantined, METADATA),
        ]
    )
    place.erase(erased)


async def test_each_change_is_named_and_mended(kept: Place) -> None:
    """Every table that is damaged is told by its name; the rebuild brings back the very rows."""
    add_open_work(kept)
    await asyncio.to_thread(rebuild, kept)
    await asyncio.to_thread(kept.notarize)
    whole = kept.rows()
    assert [] == await asyncio.to_thread(check, kept)
    assert all(whole[table] for table in DAMAGE)
    for table, statement in DAMAGE.items():
        kept.log().sql(statement)
        found = await asyncio.to_thread(check, kept)
        assert found, table
        assert {table} == {sentence.split()[0] for sentence in found}, found
        await asyncio.to_thread(rebuild, kept)
        await asyncio.to_thread(kept.notarize)
        assert whole == kept.rows(), table


def check(place: Place) -> list[str]:
    place.close()  # one process at a time uses a data directory
    return check_projections(place.settings, every=True)


def rebuild(place: Place) -> Any:
    place.close()
    return rebuild_all(place.settings, QUIET(""))


async def test_nothing_is_rebuilt_under_a_leader(database_url: str) -> None:
    """While a coordinator leads any of the followers, a rebuild of all is refused; after it, it is not."""
    leadership = PostgresLeadership(database_url)
    await leadership.acquire("timers")

    def try_it() -> None:
        with nobody_leads(database_url, ("dispatcher", "timers")):
            pass

    with pytest.raises(CoordinatorRuns):
        await asyncio.to_thread(try_it)
    await leadership.close()
    await asyncio.to_thread(try_it)
