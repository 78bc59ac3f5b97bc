"""Batches: pieces, refusals, restarts; on SQLite, with a gateway that answers as it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.batches import runner as running
from coordinator.application.batches.batches import JobBatch, JobBatches
from coordinator.application.batches.runner import BatchRunner
from coordinator.application.ports import Clock, Intent
from coordinator.application.search.jobs import JobSearch
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobCancel, JobSubmitAgain
from coordinator.domain.messages import Principal, Role
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.leadership import LocalLeadership
from coordinator.storage.tables.sqlite import SqliteDatabase
from coordinator.wire.answers import Accepted, Answer, Refused
from tests.unit.test_job_search import NOW, canonical, some_jobs

ALICE, BOB = Principal("alice", Role.CLIENT), Principal("bob", Role.CLIENT)
OPS, EVE = Principal("ops", Role.OPERATOR), Principal("eve", Role.VIEWER)
CLOCK = Clock(now=lambda: NOW + 5000, monotonic=lambda: 0.0)
JOBS = some_jobs(260, seed=9)
BY_ID = {job["job_id"]: job for job in JOBS}


class Stand:
    """Batches over a table of jobs; `sent` has all commands, `answer` decides them."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database
        self.search = JobSearch(database, canonical, CLOCK.now)
        ids = iter(range(1, 1000))
        self.batches = JobBatches(database, self.search, CLOCK, lambda: UUID(int=next(ids)))
        self.sent: list[Intent] = []
        self.valid = {ALICE, BOB, OPS}
        self.answer: Callable[[Intent], Answer] = lambda _: Accepted(len(self.sent), {})

    def runner(self) -> BatchRunner:
        async def send(intents: Sequence[Intent]) -> list[Answer]:
            self.sent += intents
            return [self.answer(intent) for intent in intents]

        async def at_once(_: float) -> None:
            return None

        leadership = LocalLeadership()
        leadership._held.add("batches")
        return BatchRunner(
            self.database, self.search, send, leadership, self.valid.__contains__, CLOCK, at_once
        )

    async def finish(self, batch: JobBatch, rounds: int = 100) -> JobBatch:
        """Run until nothing is under way; the batch then."""
        runner = self.runner()
        for _ in range(rounds):
            if not await runner.round():
                break
        return await self.batches.one(OPS, batch.batch_id)

    def ids(self) -> list[str]:
        return [str(command_of(intent).job_id) for intent in self.sent]


def command_of(intent: Intent) -> JobCancel | JobSubmitAgain:
    assert isinstance(intent.command, JobCancel | JobSubmitAgain)
    return intent.command


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    path = tmp_path / "coordinator.db"
    migrate(path)
    database = SqliteDatabase(path)
    with database.transaction() as tables:
        tables.put("jobs", JOBS)
    yield Stand(database)
    database.close()


def expected(*states: str, client: str | None = None) -> list[str]:
    """The jobs in these states, oldest first."""
    found = [j for j in JOBS if j["state"] in states and client in (None, j["client"])]
    return [j["job_id"] for j in sorted(found, key=lambda j: (j["requested_at"], j["job_id"]))]


async def test_every_matching_job_gets_one_command(stand: Stand) -> None:
    """In arrays, oldest first, as the principal that began it, with its reason; then it is done."""
    begun = await stand.batches.begin(OPS, "cancel", "state:queued,running", "maintenance")
    done = await stand.finish(begun)
    wanted = expected("QUEUED", "RUNNING")
    assert stand.ids() == wanted
    assert {intent.principal for intent in stand.sent} == {OPS}
    assert {c.reason for c in map(command_of, stand.sent) if isinstance(c, JobCancel)} == {"maintenance"}
    assert (done.state, done.done, done.seen, done.total.number) == ("DONE", *[len(wanted)] * 3)
    assert done.position == len(wanted)


async def test_a_client_acts_on_its_own_jobs(stand: Stand) -> None:
    """Whatever else matches; the usual states of a retry are those that ended without a result."""
    done = await stand.finish(await stand.batches.begin(ALICE, "retry", "age:<1d"))
    assert stand.ids() == expected("FAILED", "CANCELED", "EXPIRED", client="alice")
    assert done.state == "DONE"
    keys = {c.idempotency_key for c in map(command_of, stand.sent) if isinstance(c, JobSubmitAgain)}
    assert keys == {f"batch/{done.batch_id}"}


async def test_refusals_are_counted_by_code(stand: Stand) -> None:
    """A refusal is that job's alone."""
    bobs = set(expected("QUEUED", client="bob"))

    def answer(intent: Intent) -> Answer:
        refused = str(command_of(intent).job_id) in bobs
        return Refused(Code.CONFLICT_STATE, "final") if refused else Accepted(1, {})

    stand.answer = answer
    done = await stand.finish(await stand.batches.begin(OPS, "cancel", "state:queued"))
    assert done.refused == {"CONFLICT_STATE": len(bobs)}
    assert done.done == len(expected("QUEUED")) - len(bobs)


async def test_it_goes_on_after_a_restart(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another runner begins at the stored place; at most the last piece is sent again."""
    monkeypatch.setattr(running, "PIECE", 10)
    begun = await stand.batches.begin(OPS, "cancel", "state:queued")
    first = stand.runner()
    for _ in range(2):
        await first.round()

    wanted = expected("QUEUED")
    assert stand.ids() == wanted[:20]
    done = await stand.finish(begun)
    assert stand.ids() == wanted
    assert done.done == len(wanted)


async def test_a_piece_that_nobody_took_is_sent_again(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that takes no commands costs time, and no job; after long the batch stops."""
    monkeypatch.setattr(running, "PIECE", 10)
    tries = iter([True] * 25)
    unavailable = Refused(Code.UNAVAILABLE, "the log is out of reach")
    stand.answer = lambda _: unavailable if next(tries, False) else Accepted(1, {})
    done = await stand.finish(await stand.batches.begin(OPS, "cancel", "state:queued"))
    assert (done.state, done.done, done.refused) == ("DONE", len(expected("QUEUED")), {})
    stand.answer = lambda _: unavailable
    done = await stand.finish(await stand.batches.begin(OPS, "cancel", "state:running"))
    assert (done.state, done.done) == ("STOPPED", 0)
    assert done.why == "the coordinator takes no commands; begin it again later"


async def test_a_revoked_key_ends_its_batch(stand: Stand) -> None:
    """It acts as that key, or not at all."""
    begun = await stand.batches.begin(ALICE, "cancel", "state:queued")
    stand.valid.remove(ALICE)
    done = await stand.finish(begun)
    assert (done.state, done.why) == ("STOPPED", "alice has no valid client key any more")
    assert stand.sent == []


async def test_one_batch_of_a_name_at_a_time(stand: Stand) -> None:
    """Others may have theirs; after its end there may be another."""
    begun = await stand.batches.begin(ALICE, "cancel", "state:queued")
    with pytest.raises(Refusal, match="a batch of alice is under way") as refused:
        await stand.batches.begin(ALICE, "retry", "state:failed")
    assert refused.value.code is Code.CONFLICT_STATE
    await stand.batches.begin(BOB, "cancel", "state:queued")
    assert (await stand.batches.cancel(ALICE, begun.batch_id)).state == "CANCELED"
    await stand.batches.begin(ALICE, "retry", "state:failed")
    assert stand.sent == []


@pytest.mark.parametrize(
    ("by", "kind", "query", "code", "detail"),
    [
        (OPS, "cancel", " ", "INVALID_PAYLOAD", "invalid query: it is empty"),
        (OPS, "cancel", "stat:x", "INVALID_PAYLOAD", "invalid stat:x"),
        (
            OPS,
            "cancel",
            "state:failed",
            "INVALID_PAYLOAD",
            "only jobs that are queued, running can be canceled",
        ),
        (OPS, "retry", "state:queued", "INVALID_PAYLOAD", "can be submitted again"),
        (OPS, "cancel", "x" * 481, "INVALID_PAYLOAD", "without a state it may have 479 characters"),
        (ALICE, "cancel", "client:bob", "INVALID_PAYLOAD", "you see your own jobs only"),
        (EVE, "cancel", "state:queued", "FORBIDDEN", "a viewer key can't change jobs"),
    ],
)
async def test_what_can_not_be_meant_is_refused(
    stand: Stand, by: Principal, kind: Any, query: str, code: str, detail: str
) -> None:
    """Before anything is counted or begun."""
    for attempt in (stand.batches.plan, stand.batches.begin):
        with pytest.raises(Refusal, match=detail) as refused:
            await attempt(by, kind, query)
        assert refused.value.code == code
    assert await stand.batches.recent(OPS) == []


async def test_a_reason_without_a_place_in_the_log_is_refused(stand: Stand) -> None:
    """PostgreSQL stores no NUL: the batch would stop at its first job."""
    with pytest.raises(Refusal, match="NUL character") as refused:
        await stand.batches.begin(OPS, "cancel", "state:queued", "a\0b")
    assert "INVALID_PAYLOAD" == refused.value.code
    assert [] == await stand.batches.recent(OPS)


async def test_a_plan_says_what_would_happen(stand: Stand) -> None:
    """The number, the states, and the first jobs in the order of the batch."""
    plan = await stand.batches.plan(OPS, "cancel", "service:checksum")
    assert plan.query == "service:checksum state:queued,running"
    wanted = [job_id for job_id in expected("QUEUED", "RUNNING") if BY_ID[job_id]["service"] == "checksum"]
    assert plan.by_state == Counter(BY_ID[job_id]["state"] for job_id in wanted)
    assert plan.total.number == len(wanted)
    assert [job.job_id for job in plan.sample] == wanted[:10]
