"""Passports from the log and its tree, on SQLite and Postgres: what they have, and when they are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from coordinator.application.proof.errors import LeavesDiffer
from coordinator.application.proof.passports import NotFinal, Passports
from coordinator.application.proof.proofs import BeyondTheCheckpoint, NotPublished, UnknownPosition
from coordinator.application.receipts.receipts import Receipts
from coordinator.application.receipts.signing_keys import SigningKeys
from coordinator.domain.signing_key import SIGNING_KEYS
from tests.harness import decided_log, passports
from tests.harness.notarizing import KEY, NotarizedLog

JOBS = 100


@pytest.fixture(params=["sqlite", "postgres"])
def notarized(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NotarizedLog]:
    target = str(tmp_path / "c.db") if request.param == "sqlite" else request.getfixturevalue("database_url")
    made = NotarizedLog(target, tmp_path / "checkpoint")
    yield made
    made.close()


def passports_of(notarized: NotarizedLog) -> Passports:
    return Passports(notarized.log, notarized.proofs, Receipts(notarized.log, SigningKeys(KEY)))


async def test_many_proofs_are_those_of_each_event(notarized: NotarizedLog) -> None:
    """Proofs that are read together equal those that are read one by one, over the ends of tiles, too."""
    notarized.append(600)
    await notarized.follow(notarized.notary())
    proofs = notarized.proofs
    events = notarized.log.read(0, 600)
    positions = [events[index].position for index in (0, 1, 254, 255, 256, 257, 511, 512, 599)]
    together, published = proofs.inclusions(positions)
    assert [proofs.inclusion(position)[0] for position in positions] == together
    assert 600 == published.size
    with pytest.raises(BeyondTheCheckpoint):
        proofs.inclusions([*positions, events[-1].position + 1])
    with pytest.raises(UnknownPosition):
        proofs.inclusions([0, *positions])


async def test_a_passport_has_what_the_job_relies_on_and_nothing_else(notarized: NotarizedLog) -> None:
    """All events of the job; the key, the service's version, and each holding session's registration."""
    decided_log.write(notarized.log, JOBS)
    await notarized.follow(notarized.notary())
    made = await passports_of(notarized).of(passports.job_id(0))
    assert made is not None
    stored = notarized.log.load([passports.job_id(0)])[passports.job_id(0)]
    assert [r.data.decode() for r in stored] == [event["state"] for event in made["events"]]
    assert [
        ("signing_key.introduced.v1", None),
        ("service.registered.v1", None),
        ("miner.registered.v1", "rig"),
        ("miner.registered.v1", "node1@farm"),
    ] == [(e["topic"], json.loads(e["state"]).get("miner_id")) for e in made["relied_on"]]
    canceled = await passports_of(notarized).of(passports.job_id(3))
    assert canceled is not None
    assert ["signing_key.introduced.v1", "service.registered.v1"] == [
        event["topic"] for event in canceled["relied_on"]
    ]


async def test_what_can_not_be_proven_is_refused(notarized: NotarizedLog) -> None:
    """Without a checkpoint of the job's end, for an open job, for another stream, and from a changed log."""
    [open_job] = notarized.append(1)
    made = passports_of(notarized)
    with pytest.raises(NotFinal):
        await made.of(open_job.stream)
    decided_log.write(notarized.log, 3)
    with pytest.raises(NotPublished):
        await made.of(passports.job_id(0))
    events = notarized.log.load([passports.job_id(0)])[passports.job_id(0)]
    await notarized.follow(notarized.notary(), until=events[-1].position - 1)
    with pytest.raises(BeyondTheCheckpoint):
        await made.of(passports.job_id(0))
    await notarized.follow(notarized.notary())
    assert await made.of(passports.job_id(0)) is not None
    assert await made.of(uuid4()) is None
    assert await made.of(SIGNING_KEYS) is None
    changed = f"SELECT metadata FROM stored_events WHERE {{position}} = {open_job.position}"
    notarized.sql(
        f"UPDATE stored_events SET metadata = ({changed}) WHERE {{position}} = {events[1].position}"
    )
    with pytest.raises(LeavesDiffer, match="was changed"):
        await made.of(passports.job_id(0))
