"""What the followers make of the log, on SQLite and Postgres alike: tables, offers, and timers."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest

from coordinator.application.dispatch.dispatcher import Dispatcher
from coordinator.application.dispatch.fair_queue import LANE_HEAD
from coordinator.application.dispatch.local_queues import LocalHints, LocalWorkQueues
from coordinator.application.dispatch.payloads import Payloads
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.followers.follower import FollowerBase
from coordinator.application.followers.runner import FollowerRunner
from coordinator.application.followers.timers import Timers
from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.ports import (
    Clock,
    Database,
    EventLog,
    Intent,
    LogUnavailable,
    NewEvent,
    Recorded,
    StoredPayload,
    Tables,
)
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobExpire,
    JobFailed,
    JobLose,
    JobRequeued,
    JobStarted,
    JobSubmitted,
)
from coordinator.domain.messages import Command, Event
from coordinator.domain.miner import MinerDrained, MinerLeft, MinerLose, miner_stream
from coordinator.projections import projector
from coordinator.projections.projector import Projector
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from coordinator.storage.tables.leadership import LocalLeadership
from coordinator.storage.tables.postgres import PostgresDatabase
from coordinator.storage.tables.sqlite import SqliteDatabase
from coordinator.wire.answers import Accepted, Answer
from tests.harness import deciding
from tests.harness.dispatching import TOKENS, SentCommands
from tests.harness.metadata import METADATA
from tests.harness.waiting import eventually

PATIENCE = 60.0  # seconds before a test gives up on something that should happen
T0 = deciding.T0
PROFILE = deciding.registered().profile


@dataclass
class Stores:
    """A log, its tables, and a clock that the test sets."""

    log: EventLog
    database: Database
    now: int = T0
    monotonic: float = 1000.0
    versions: dict[UUID, int] = field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, monotonic=lambda: self.monotonic)

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1000)
        self.monotonic += seconds

    def append(self, *events: Event, payload: bool = True) -> list[Recorded]:
        new, payloads = [], []
        for event in events:
            stream = getattr(event, "job_id", None) or miner_stream(getattr(event, "miner_id", "?"))
            self.versions[stream] = self.versions.get(stream, 0) + 1
            new.append(NewEvent(stream, self.versions[stream], event, METADATA))
            if isinstance(event, JobSubmitted) and payload:
                payloads.append(StoredPayload(event.job_id, "payload", SALT, PAYLOAD))
        return list(self.log.append(new, payloads).events)

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        key = {m.table: m.key for m in projector.READ_MODELS}[table]
        with self.database.transaction() as tables:
            return {row[key]: row for row in tables.query(f"projector_all_{table}")}


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    log: EventLog
    database: Database
    if request.param == "sqlite":
        path = tmp_path / "c.db"
        migrate(path)
        log, database = SqliteEventLog(path), SqliteDatabase(path)
    else:
        url = request.getfixturevalue("database_url")
        migrate(url)
        log, database = PostgresEventLog(url), PostgresDatabase(url)
    with closing(log), closing(database):
        yield Stores(log, database)


PAYLOAD = b'{"audio":"a.wav"}'
SALT = b"s" * 16
DIGEST = hashlib.sha256(SALT + PAYLOAD).hexdigest()


def submitted(job_id: UUID, **changes: Any) -> JobSubmitted:
    return deciding.submitted(job_id=job_id, **{"payload_digest": DIGEST, **changes})


def started(job_id: UUID, **changes: Any) -> JobStarted:
    return deciding.started(job_id=job_id, **changes)


def completed(job_id: UUID, attempt: int = 1) -> JobCompleted:
    return deciding.completed(attempt=attempt).model_copy(update={"job_id": job_id})


def after(job_id: UUID, kind: Callable[..., Event], **fields: Any) -> Any:
    return kind(at=T0, by="rig", job_id=job_id, client="alice", **fields)


def lost(job_id: UUID, attempt: int = 1) -> JobAttemptEnded:
    return after(  # type: ignore[no-any-return]
        job_id,
        JobAttemptEnded,
        attempt=attempt,
        miner_id="rig",
        session_id=deciding.SESSION,
        outcome="lost",
        error_code="LEASE_LOST",
        error_message="",
        metrics={},
    )


def lead(stores: Stores, follower: FollowerBase, events: Sequence[Recorded]) -> None:
    """One batch, as the runner does it."""
    with stores.database.transaction() as tables:
        before = tables.position(follower.name)
        follower.apply(tables, events)
        tables.move(follower.name, before, events[-1].position)


# --- projector ---------------------------------------------------------------------------------------------
def test_rows_follow_a_job_through_two_attempts(stores: Stores) -> None:
    """The read model shows each step of a job's life, however the events are cut into batches."""
    job, follower = uuid4(), Projector()
    steps: list[tuple[Event, str, int, str | None]] = [
        (submitted(job), "QUEUED", 1, None),
        (started(job), "RUNNING", 1, "rig"),
        (lost(job), "RUNNING", 1, "rig"),
        (after(job, JobRequeued, attempt=2), "QUEUED", 2, None),
        (started(job, attempt=2), "RUNNING", 2, "rig"),
        (completed(job, attempt=2), "COMPLETED", 2, "rig"),
    ]
    for event, state, attempt, miner in steps:
        lead(stores, follower, stores.append(event))
        row = stores.rows("jobs")[str(job)]
        assert (row["state"], row["attempt"], row["miner_id"]) == (state, attempt, miner)
    assert ("1.000", "0.002000") == (row["units"], row["price"])


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_a_rebuild_gives_the_same_rows(stores: Stores, batch: int) -> None:
    """Thrown away and folded again, the read models are what they were, and equal a fold of the log."""
    jobs = [uuid4() for _ in range(5)]
    events = stores.append(
        deciding.registered(),
        *(submitted(job) for job in jobs),
        *(started(job) for job in jobs[1:]),
        completed(jobs[1]),
        after(jobs[2], JobCanceled, attempt=1, reason="enough"),
        lost(jobs[3]),
        after(jobs[3], JobFailed, attempt=1, error_code="LEASE_LOST", error_message="x"),
        MinerDrained(at=T0, by="rig", miner_id="rig", session_id=deciding.SESSION),
    )
    follower = Projector()
    for at in range(0, len(events), batch):
        lead(stores, follower, events[at : at + batch])
    before = {table: stores.rows(table) for table in ("jobs", "miners")}
    assert list(projector.differences(stores.log, stores.database)) == []
    seen: list[tuple[int, int]] = []
    count = projector.rebuild(stores.log, stores.database, lambda at, head: seen.append((at, head)))
    assert count == len(events)
    assert seen[-1] == (events[-1].position, events[-1].position)
    assert before == {table: stores.rows(table) for table in ("jobs", "miners")}


def test_who_reads_while_a_rebuild_runs_reads_what_was_there(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two batches of a rebuild no row is missing: rows and position are those from before it."""
    monkeypatch.setattr(projector, "READ_EVENTS", 2)
    jobs = [uuid4() for _ in range(3)]
    events = [submitted(job) for job in jobs] + [started(job) for job in jobs] + [completed(jobs[0])]
    last = stores.append(deciding.registered(), *events)
    lead(stores, Projector(), last)
    before = {table: stores.rows(table) for table in ("jobs", "miners")}
    seen: list[bool] = []

    def look(_: int, head: int) -> None:
        now = {table: stores.rows(table) for table in before}
        with stores.database.transaction() as tables:
            seen.append((now, tables.position("projector")) == (before, head))

    assert projector.rebuild(stores.log, stores.database, look) == len(last)
    assert [True] * 4 == seen
    assert list(projector.differences(stores.log, stores.database)) == []


def test_a_rebuild_that_is_broken_off_has_changed_nothing(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and position are what they were, and the next rebuild does it all."""
    monkeypatch.setattr(projector, "READ_EVENTS", 1)
    jobs = [uuid4() for _ in range(2)]
    last = stores.append(*(submitted(job) for job in jobs), completed(jobs[0]))
    lead(stores, Projector(), last)
    before = {table: stores.rows(table) for table in ("jobs",)}

    def break_off(at: int, _: int) -> None:
        if at == last[1].position:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        projector.rebuild(stores.log, stores.database, break_off)
    assert before == {table: stores.rows(table) for table in before}
    with stores.database.transaction() as tables:
        assert last[-1].position == tables.position("projector")
    assert len(last) == projector.rebuild(stores.log, stores.database, lambda *_: None)
    assert before == {table: stores.rows(table) for table in before}


def test_a_table_that_was_tampered_with_is_named(stores: Stores) -> None:
    """A row changed, one gone and one too many are each found, with their key."""
    jobs = sorted((uuid4() for _ in range(3)), key=str)
    lead(stores, Projector(), stores.append(*(submitted(job) for job in jobs)))
    with stores.database.transaction() as tables:
        row = {r["job_id"]: r for r in tables.query("projector_all_jobs")}[str(jobs[0])]
        tables.put("jobs", [{**row, "state": "COMPLETED"}, {**row, "job_id": "forged"}])
        tables.remove("jobs", [str(jobs[1])])
    assert list(projector.differences(stores.log, stores.database)) == sorted(
        [
            f"jobs {jobs[0]}: differs in state",
            f"jobs {jobs[1]}: the log has it, the table does not",
            "jobs forged: the table has it, the log does not",
        ]
    )


def test_a_check_beside_a_live_projector_finds_nothing(database_url: str) -> None:
    """What is written between two of the check's looks is no difference; what was wrong before still is."""
    migrate(database_url)
    with closing(PostgresEventLog(database_url)) as log, closing(PostgresDatabase(database_url)) as database:
        stores, follower = Stores(log, database), Projector()
        old, changed, new = (uuid4() for _ in range(3))
        lead(stores, follower, stores.append(submitted(old), submitted(changed)))
        with database.transaction() as tables:
            row = {r["job_id"]: r for r in tables.query("projector_all_jobs")}[str(old)]
            tables.put("jobs", [{**row, "state": "COMPLETED"}])

        class Busy:
            """The projector commits once after the first look."""

            more: ClassVar = [started(changed), submitted(new)]

            @contextmanager
            def transaction(self) -> Iterator[Tables]:
                with database.transaction() as tables:
                    position = tables.position

                    def then_more(named: str) -> int:
                        found = position(named)
                        if self.more:
                            lead(stores, follower, stores.append(*self.more))
                            self.more.clear()
                        return found

                    tables.position = then_more  # type: ignore[method-assign,assignment]
                    yield tables

            def close(self) -> None: ...

        assert list(projector.differences(log, Busy())) == [f"jobs {old}: differs in state"]
        assert stores.rows("jobs").keys() == {str(old), str(changed), str(new)}


# --- runner ------------------------------------------------------------------------------------------------
class Recording(FollowerBase):
    """Keeps what it was given, and breaks at the events that it is told to."""

    name = "recording"
    batch = 3
    tick_seconds = 0.05

    def __init__(self, breaks_at: Callable[[Recorded], bool] = lambda event: False) -> None:
        self.seen: list[int] = []
        self.applied: list[list[int]] = []
        self._breaks_at = breaks_at

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        if any(self._breaks_at(event) for event in events):
            raise RuntimeError("can't apply this")
        self.applied.append([event.position for event in events])

    async def act(self, events: Sequence[Recorded]) -> None:
        self.seen += [event.position for event in events]


@dataclass
class Running:
    runner: FollowerRunner
    feed: EventFeed
    watermarks: LocalWatermarks


@pytest.fixture
async def run(stores: Stores) -> AsyncIterator[Callable[[FollowerBase], Any]]:
    running: list[Running] = []

    async def start(follower: FollowerBase) -> Running:
        feed, watermarks = EventFeed(stores.log), LocalWatermarks(stores.database)
        runner = FollowerRunner(follower, feed, stores.database, LocalLeadership(), watermarks)
        running.append(Running(runner, feed, watermarks))
        await feed.start()
        await runner.start()
        await runner.start()
        return running[-1]

    yield start
    for each in running:
        await each.runner.stop()
        await each.runner.stop()
        await each.feed.stop()


async def test_a_follower_sees_every_event_once_and_goes_on_where_it_stopped(
    stores: Stores, run: Callable[[FollowerBase], Any]
) -> None:
    """What was there before, what is handed on, and what another process appends: each once, in order."""
    past = stores.append(*(submitted(uuid4()) for _ in range(7)))
    follower = Recording()
    running = await run(follower)
    handed = stores.append(submitted(uuid4()))
    running.feed.note_committed(past[-1].position, handed)  # what the bus of this process does
    foreign = stores.append(*(submitted(uuid4()) for _ in range(4)))  # what another process does
    assert await running.watermarks.reached("recording", foreign[-1].position, PATIENCE)
    expected = [e.position for e in (*past, *handed, *foreign)]
    assert follower.seen == expected
    await running.runner.stop()
    later = stores.append(submitted(uuid4()))
    again = Recording()
    resumed = await run(again)
    assert await resumed.watermarks.reached("recording", later[-1].position, PATIENCE)
    assert again.seen == [later[-1].position]


class NobodyLeads(LocalLeadership):
    """No name is ever acquired here."""

    elsewhere = False

    async def acquire(self, name: str) -> None:
        await asyncio.Event().wait()

    def led_elsewhere(self, name: str) -> bool:
        return self.elsewhere


async def test_a_follower_that_nobody_leads_is_a_problem(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standing by is fine while another process leads, and for a moment while nobody does."""
    monkeypatch.setattr("coordinator.application.followers.runner.STANDBY_SECONDS", 0.3)
    leadership, feed = NobodyLeads(), EventFeed(stores.log)
    watermarks = LocalWatermarks(stores.database)
    runner = FollowerRunner(Recording(), feed, stores.database, leadership, watermarks)
    await runner.start()
    try:
        assert [] == runner.problems()
        await eventually(lambda: runner.problems() == ["recording is led by no process"], timeout=PATIENCE)
        leadership.elsewhere = True
        assert [] == runner.problems()
    finally:
        await runner.stop()


async def test_a_follower_ahead_of_the_log_stops_and_says_so(
    stores: Stores, run: Callable[[FollowerBase], Any]
) -> None:
    """Tables of a newer backup than the log's: events at the positions between would be skipped."""
    last = stores.append(submitted(uuid4()))[-1].position
    with stores.database.transaction() as tables:
        tables.move("recording", 0, last + 3)
    running = await run(Recording())
    await eventually(lambda: running.runner.status == "failed", timeout=PATIENCE)
    [problem] = running.runner.problems()
    assert f"at position {last + 3}, beyond the end of the log" in problem


async def test_a_follower_that_cannot_apply_an_event_stops_and_says_so(
    stores: Stores, run: Callable[[FollowerBase], Any]
) -> None:
    """It alarms and never skips: its position stays before the event."""
    good = stores.append(submitted(uuid4()))
    running = await run(Recording(breaks_at=lambda e: e.position > good[0].position))
    assert await running.watermarks.reached("recording", good[0].position, PATIENCE)
    stores.append(submitted(uuid4()))
    await eventually(lambda: running.runner.status == "failed", "the follower stopped", PATIENCE)
    assert (running.runner.status, running.runner.error) == ("failed", "RuntimeError: can't apply this")
    with stores.database.transaction() as tables:
        assert tables.position("recording") == good[0].position


async def test_a_leader_that_was_replaced_writes_nothing(
    stores: Stores, run: Callable[[FollowerBase], Any]
) -> None:
    """Its position moved under it: what it writes is undone, and it starts again from the new one."""
    first = stores.append(submitted(uuid4()))
    follower = Recording()
    running = await run(follower)
    assert await running.watermarks.reached("recording", first[0].position, PATIENCE)
    skipped = [first[0]._replace(position=first[0].position + 1)]
    with stores.database.transaction() as tables:  # a usurper has done the next event already
        tables.move("recording", first[0].position, skipped[0].position)
    done, own = stores.append(submitted(uuid4()), submitted(uuid4()))
    assert done.position == skipped[0].position
    assert await running.watermarks.reached("recording", own.position, PATIENCE)
    assert follower.applied == [[first[0].position], [done.position, own.position], [own.position]]
    with stores.database.transaction() as tables:
        assert tables.position("recording") == own.position


class Witness(FollowerBase):
    """Moves a second position from event to event: whoever skips or repeats one fails."""

    name = "witness"
    batch = 4
    tick_seconds = 0.02

    def __init__(self, stores: Stores, chance: random.Random) -> None:
        self.linger_seconds = chance.choice((0.0, 0.01))
        self.acted: list[int] = []
        self.gathered = 0
        self._chance = chance
        self._previous = {event.position: before for before, event in _pairs(stores)}

    @property
    def hurried(self) -> bool:  # type: ignore[override]
        return self._chance.random() < 0.3

    async def act(self, events: Sequence[Recorded]) -> None:
        if self._chance.random() < 0.1:
            raise ConnectionError("nobody hears it")
        self.acted += [event.position for event in events]

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        for event in events:
            tables.move("witnessed", self._previous[event.position], event.position)


def _pairs(stores: Stores) -> Iterator[tuple[int, Recorded]]:
    before = 0
    for event in stores.log.read(0, 10_000):
        yield before, event
        before = event.position


class Moody:
    """A database that is out of reach at times: before a transaction, or once it is committed."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self._database = database
        self._chance = chance

    @contextmanager
    def transaction(self) -> Iterator[Tables]:
        if self._chance.random() < 0.1:
            raise LogUnavailable("not now")
        with self._database.transaction() as tables:
            yield tables
        if self._chance.random() < 0.1:
            raise LogUnavailable("the answer was lost")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("seed", range(4))
async def test_two_that_both_believe_to_lead_store_each_event_once(
    stores: Stores, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that comes and goes, acts that fail, stops half-way: no event twice, none skipped."""
    monkeypatch.setattr("coordinator.application.followers.event_feed.POLL_SECONDS", 0.05)
    monkeypatch.setattr("coordinator.application.followers.runner.RETRY_SECONDS", 0.001)
    monkeypatch.setattr("coordinator.application.followers.runner.LONGEST_RETRY_SECONDS", 0.002)
    chance = random.Random(seed)
    events = stores.append(*(submitted(uuid4()) for _ in range(60)))
    database, watermarks = Moody(stores.database, chance), LocalWatermarks(stores.database)
    feed = EventFeed(stores.log)
    await feed.start()
    leaders = [
        FollowerRunner(Witness(stores, chance), feed, database, LocalLeadership(), watermarks)
        for _ in range(2)
    ]
    for leader in leaders:
        await leader.start()
    async with asyncio.timeout(PATIENCE):
        while not await watermarks.reached("witness", events[-1].position, 0.02):
            restarted = chance.choice(leaders)
            await restarted.stop()
            assert restarted.status == "stopped"
            await restarted.start()
    for leader in leaders:
        await leader.stop()
    await feed.stop()
    assert [leader.error for leader in leaders] == [None, None]
    with stores.database.transaction() as tables:
        assert tables.position("witnessed") == tables.position("witness") == events[-1].position
    acted = {position for leader in leaders for position in leader.follower.acted}  # type: ignore[attr-defined]
    assert acted == {event.position for event in events}


async def test_a_stop_stores_what_was_acted_on(stores: Stores, run: Callable[[FollowerBase], Any]) -> None:
    """What lingers is not thrown away, so that nobody acts on it again."""
    follower = Recording()
    follower.linger_seconds = PATIENCE
    seen = asyncio.Event()

    async def act(events: Sequence[Recorded]) -> None:
        await Recording.act(follower, events)
        seen.set()

    follower.act = act  # type: ignore[method-assign]
    events = stores.append(submitted(uuid4()), submitted(uuid4()))
    running = await run(follower)
    async with asyncio.timeout(PATIENCE):
        await seen.wait()
    assert follower.applied == []
    await running.runner.stop()
    assert follower.applied == [[event.position for event in events]]
    with stores.database.transaction() as tables:
        assert tables.position("recording") == events[-1].position


async def test_what_was_acted_on_is_stored_before_a_pause(
    stores: Stores, run: Callable[[FollowerBase], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that went away is told again what it may not have heard, and nothing from before that."""
    monkeypatch.setattr("coordinator.application.followers.runner.RETRY_SECONDS", 0.001)
    follower, told, more = Recording(), list[int](), asyncio.Event()
    follower.linger_seconds = PATIENCE

    async def act(events: Sequence[Recorded]) -> None:
        told.extend(event.position for event in events)
        more.set()
        if len(told) == 2:
            raise ConnectionError("it is away")

    follower.act = act  # type: ignore[method-assign]
    [first] = stores.append(submitted(uuid4()))
    running = await run(follower)
    async with asyncio.timeout(PATIENCE):
        await more.wait()
        [second] = stores.append(submitted(uuid4()))
        while len(told) < 3:
            more.clear()
            await more.wait()
    assert told == [first.position, second.position, second.position]
    await running.runner.stop()
    assert follower.applied == [[first.position], [second.position]]


async def test_a_hurried_follower_stores_at_once_and_ticks_as_often_as_it_wants(
    stores: Stores, run: Callable[[FollowerBase], Any]
) -> None:
    """However long it lingers: ticks come, and what a tick finds to be needed in the tables is stored."""
    follower, ticks = Recording(), list[int]()
    follower.linger_seconds = 2 * PATIENCE

    async def tick(stored_to: int) -> None:
        ticks.append(stored_to)
        follower.hurried = len(follower.seen) > 0 and len(ticks) > 5

    follower.tick = tick  # type: ignore[method-assign]
    [event] = stores.append(submitted(uuid4()))
    running = await run(follower)
    assert await running.watermarks.reached("recording", event.position, PATIENCE)
    assert follower.applied == [[event.position]]


# --- dispatcher --------------------------------------------------------------------------------------------
@dataclass
class Dispatching:
    stores: Stores
    dispatcher: Dispatcher
    queues: LocalWorkQueues
    hints: LocalHints

    async def see(self, *events: Event) -> None:
        await self.lead(self.stores.append(*events))

    async def lead(self, recorded: Sequence[Recorded]) -> None:
        """One batch, as the runner does it."""
        await self.dispatcher.act(recorded)
        await self.dispatcher.tick(0)
        self.dispatcher.gather()
        await asyncio.to_thread(lead, self.stores, self.dispatcher, recorded)
        await self.dispatcher.tick(10**9)

    async def offers(self, profile: str = PROFILE) -> list[tuple[str, int]]:
        found = []
        while taken := await self.queues.take(profile, 0):
            found.append((str(taken.offer.job_id), taken.offer.attempt))
            await taken.done()
        return found


def dispatching(stores: Stores, queues: LocalWorkQueues | None = None) -> Dispatching:
    queues, hints = queues or LocalWorkQueues(), LocalHints()
    payloads = Payloads(stores.log)
    dispatcher = Dispatcher(
        payloads, stores.database, queues, hints, stores.clock, 10, TOKENS, SentCommands().handle
    )
    with stores.database.transaction() as tables:
        dispatcher.take_over(tables)
    return Dispatching(stores, dispatcher, queues, hints)


def earned(d: Dispatching, slots: int, *principals: str) -> None:
    """These principals have earned so many slots."""
    for principal in principals:
        d.dispatcher.work.fleet.standing(principal, "whisper").slots = slots


async def test_a_queued_job_is_offered_to_a_miner_that_can_serve_it(stores: Stores) -> None:
    """Offers come as soon as there are both, in whichever order, and no more than there are free slots."""
    jobs = [uuid4() for _ in range(3)]
    d = dispatching(stores)
    await d.see(*(submitted(job) for job in jobs))
    assert await d.offers() == []
    await d.see(deciding.registered(concurrency=2))
    assert await d.offers() == [(str(job), 1) for job in jobs[:2]]


async def test_an_offer_carries_the_payload_and_what_proves_it(stores: Stores) -> None:
    """A miner gets the payload, its salt and its digest with the offer."""
    job = uuid4()
    d = dispatching(stores)
    await d.see(submitted(job), deciding.registered())
    taken = await d.queues.take(PROFILE, 0)
    assert taken is not None
    assert taken.offer.payload == {"audio": "a.wav"}
    assert taken.offer.payload_salt == SALT.hex()
    assert taken.offer.payload_digest == DIGEST


async def test_a_payload_that_looks_like_our_reference_to_a_blob_is_a_payload(stores: Stores) -> None:
    """Only a stored document that is not what was digested stands for one in a blob."""
    mine, ours = uuid4(), uuid4()
    body = b'{"blob":"hello"}'
    digest = hashlib.sha256(b"s" * 16 + body).hexdigest()
    ref = f'{{"blob":"blob:{"a" * 64}"}}'.encode()
    d = dispatching(stores)
    stores.versions |= {mine: 0, ours: 0}
    events = [
        NewEvent(mine, 1, submitted(mine, payload_digest=digest), METADATA),
        NewEvent(ours, 1, submitted(ours), METADATA),
        NewEvent(miner_stream("rig"), 1, deciding.registered(concurrency=2), METADATA),
    ]
    rows = [StoredPayload(mine, "payload", b"s" * 16, body), StoredPayload(ours, "payload", b"s" * 16, ref)]
    recorded = stores.log.append(events, rows).events
    await d.lead(recorded)
    first, second = await d.queues.take(PROFILE, 0), await d.queues.take(PROFILE, 0)
    assert first is not None
    assert second is not None
    assert (first.offer.payload, first.offer.payload_blob) == ({"blob": "hello"}, None)
    assert (second.offer.payload, second.offer.payload_blob) == (None, f"blob:{'a' * 64}")


async def test_offers_do_not_wait_for_the_table(stores: Stores) -> None:
    """What the table then fails to keep is offered again after the takeover: nothing is lost."""
    job = uuid4()
    d = dispatching(stores)
    await d.see(deciding.registered(concurrency=2))
    recorded = stores.append(submitted(job))
    await d.dispatcher.act(recorded)
    await d.dispatcher.tick(0)
    taken = await d.queues.take(PROFILE, PATIENCE)
    assert taken is not None
    assert taken.offer.job_id == job
    with stores.database.transaction() as tables:  # the transaction failed: whoever leads now reads anew
        d.dispatcher.take_over(tables)
    assert await d.offers() == []
    await d.lead(recorded)
    assert await d.offers() == [(str(job), 1)]


async def test_lanes_are_read_only_behind_the_commit(stores: Stores) -> None:
    """Jobs beyond a lane's head that are still being written are not taken for the lane's end."""
    jobs = [uuid4() for _ in range(LANE_HEAD + 5)]
    d = dispatching(stores)
    earned(d, 2 * LANE_HEAD, "rig")
    await d.see(deciding.registered(concurrency=2 * LANE_HEAD))
    await d.lead(stores.append(*(submitted(job) for job in jobs)))
    seen = [job for job, _ in await d.offers()]
    while len(seen) < len(jobs):
        await d.dispatcher.tick(10**9)
        more = [job for job, _ in await d.offers()]
        assert more, "the rest was forgotten"
        seen += more
    assert sorted(seen) == sorted(map(str, jobs))


async def test_short_heads_give_as_many_offers(stores: Stores, monkeypatch: Any) -> None:
    """Where lanes keep few jobs in memory, a miner with many slots has them all filled in one go."""
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.MIN_LANE_HEAD", 2)
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.QUEUE_JOBS", 0)
    jobs = [uuid4() for _ in range(23)]
    d = dispatching(stores)
    earned(d, 20, "rig")
    await d.see(*(submitted(job) for job in jobs))
    await d.see(deciding.registered(concurrency=20))
    assert [job for job, _ in await d.offers()] == [str(job) for job in jobs[:20]]


async def test_a_job_that_is_over_is_not_offered_again(stores: Stores) -> None:
    """Started, completed and cancelled jobs leave the window; the next ones take their place."""
    jobs = [uuid4() for _ in range(4)]
    d = dispatching(stores)
    await d.see(deciding.registered(), *(submitted(job) for job in jobs))
    assert await d.offers() == [(str(jobs[0]), 1)]
    await d.see(after(jobs[1], JobCanceled, attempt=1, reason=""))
    await d.see(started(jobs[0]), completed(jobs[0]))
    offered = [job for job, _ in await d.offers()]
    assert offered[0] == str(jobs[2])
    assert str(jobs[1]) not in offered


async def test_a_lost_attempt_is_offered_as_the_next_one_and_its_miner_told(stores: Stores) -> None:
    """The job goes back into the queue with a higher attempt; whoever held it is told to stop."""
    job = uuid4()
    d = dispatching(stores)
    await d.see(deciding.registered(), submitted(job))
    await d.offers()
    await d.see(started(job))
    await d.see(lost(job), after(job, JobRequeued, attempt=2))
    assert await d.offers() == []  # nobody else could run it: the same again, a moment later
    stores.pass_time(1)
    await d.dispatcher.tick(10**9)
    assert await d.offers() == [(str(job), 2)]
    hints = await d.hints.wait("rig", PATIENCE)
    assert hints == [{"hint": "cancel", "job_id": str(job), "attempt": 1}]


async def test_an_offer_that_nobody_claims_is_made_again_elsewhere_if_it_can_be(stores: Stores) -> None:
    """After the offer timeout another profile with a free slot gets it; without one, the same again."""
    other = deciding.registered(
        session="session-of-other", miner_id="other", capabilities=deciding.capabilities(region="eu")
    )
    job = uuid4()
    d = dispatching(stores)
    await d.see(deciding.registered(), submitted(job))
    assert await d.offers() == [(str(job), 1)]
    stores.pass_time(11)
    await d.dispatcher.tick(10**9)
    assert await d.offers() == [(str(job), 1)]
    await d.see(other)
    stores.pass_time(11)
    await d.dispatcher.tick(10**9)
    assert (await d.offers(), await d.offers(other.profile)) == ([], [(str(job), 1)])


async def test_offers_that_nobody_claims_keep_their_order(stores: Stores) -> None:
    """The oldest job comes first again, however many profiles' offers were in vain."""
    other = deciding.registered(
        session="session-of-other",
        miner_id="other",
        capabilities=deciding.capabilities(region="eu"),
        concurrency=3,
    )
    jobs = [uuid4() for _ in range(6)]
    d = dispatching(stores)
    earned(d, 3, "rig", "other")
    await d.see(deciding.registered(concurrency=3), other, *(submitted(job) for job in jobs))
    assert len(await d.offers()) == len(await d.offers(other.profile)) == 3
    for late in range(2):
        stores.pass_time(11)
        await d.dispatcher.tick(10**9)
        stores.pass_time(2)  # newcomers that let offers lie wait a moment
        await d.dispatcher.tick(10**9)
        offered = [await d.offers(), await d.offers(other.profile)]
        assert sorted(offered) == sorted(
            [[(str(j), 1) for j in jobs[:3]], [(str(j), 1) for j in jobs[3:]]]
        ), late


async def test_a_job_that_nobody_claims_again_and_again_lets_others_pass(stores: Stores) -> None:
    """Its offer is repeated once in its place; after a second time in vain, the next job has its turn."""
    unwanted, waiting = uuid4(), uuid4()
    d = dispatching(stores)
    await d.see(deciding.registered(), submitted(unwanted), submitted(waiting))
    seen = [await d.offers()]
    for _ in range(3):
        stores.pass_time(11)
        await d.dispatcher.tick(10**9)
        seen.append(await d.offers())
    order = [unwanted, unwanted, waiting, waiting]
    assert [[(str(job), 1)] for job in order] == seen


async def test_who_takes_over_offers_everything_anew(stores: Stores) -> None:
    """A crash between commit and publish loses nothing: the next leader reads its table and offers."""
    jobs = [uuid4() for _ in range(3)]
    first = dispatching(stores)
    earned(first, 3, "rig")
    await first.see(deciding.registered(concurrency=3), *(submitted(job) for job in jobs))
    await first.see(started(jobs[0]))
    second = dispatching(stores)
    earned(second, 3, "rig")
    await second.dispatcher.tick(10**9)
    assert await second.offers() == [(str(job), 1) for job in jobs[1:]]
    await second.see(lost(jobs[0]), after(jobs[0], JobRequeued, attempt=2))
    stores.pass_time(1)
    await second.dispatcher.tick(10**9)
    assert await second.offers() == [(str(jobs[0]), 2)]


async def test_a_broker_that_came_back_gets_everything_anew(stores: Stores) -> None:
    """What was on the queues is unknown then, so every offer is made once more."""
    job = uuid4()
    d = dispatching(stores)
    await d.see(deciding.registered(), submitted(job))
    await d.offers()
    d.dispatcher._note_reset()
    await d.dispatcher.tick(10**9)
    assert await d.offers() == [(str(job), 1)]


async def test_a_backlog_beyond_memory_is_offered_whole(stores: Stores, monkeypatch: Any) -> None:
    """Jobs that were left in the table come when their time has come, in order, each once."""
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.LANE_HEAD", 5)
    jobs = [uuid4() for _ in range(23)]
    d = dispatching(stores)
    await d.see(*(submitted(job) for job in jobs))
    await d.see(deciding.registered(concurrency=1))
    seen: list[str] = []
    while offers := await d.offers():
        seen += [job for job, _ in offers]
        for job, _ in offers:
            await d.see(started(UUID(job)), completed(UUID(job)))
            stores.pass_time(0.2)
    assert seen == [str(job) for job in jobs]


async def test_who_takes_over_a_backlog_beyond_memory_offers_it_whole(
    stores: Stores, monkeypatch: Any
) -> None:
    """What the new leader left in the table is no less queued than what it read first."""
    monkeypatch.setattr("coordinator.application.dispatch.fair_queue.LANE_HEAD", 5)
    jobs = [uuid4() for _ in range(23)]
    await dispatching(stores).see(deciding.registered(concurrency=1), *(submitted(job) for job in jobs[:22]))
    d = dispatching(stores)
    await d.dispatcher.tick(10**9)
    seen = [job for job, _ in await d.offers()]
    await d.see(started(UUID(seen[0])), submitted(jobs[22]), completed(UUID(seen[0])))
    while offers := await d.offers():
        seen += [job for job, _ in offers]
        for job, _ in offers:
            await d.see(started(UUID(job)), completed(UUID(job)))
            stores.pass_time(0.2)
    assert seen == [str(job) for job in jobs]


async def test_a_draining_miner_is_told_and_gets_nothing_new(stores: Stores) -> None:
    """Offers stop with the drain; the hint says so at once."""
    d = dispatching(stores)
    await d.see(deciding.registered(concurrency=5))
    await d.see(MinerDrained(at=T0, by="root", miner_id="rig", session_id=deciding.SESSION))
    await d.see(submitted(uuid4()))
    assert await d.offers() == []
    assert await d.hints.wait("rig", PATIENCE) == [{"hint": "drain", "session_id": deciding.SESSION}]


# --- timers ------------------------------------------------------------------------------------------------
@dataclass
class Timing:
    stores: Stores
    timers: Timers
    dispatching: Dispatching
    """The dispatcher's table says how long jobs may live and run."""
    sent: list[Command]

    async def see(self, *events: Event) -> None:
        recorded = self.stores.append(*events)
        await self.dispatching.lead(recorded)
        lead(self.stores, self.timers, recorded)

    async def wait(self, seconds: float) -> list[Command]:
        """Let this much time pass in small steps, as it does; the commands that came of it."""
        self.sent.clear()
        for _ in range(int(seconds)):
            self.stores.pass_time(1)
            await self.timers.tick(10**9)
        return list({repr(c): c for c in self.sent}.values())


@pytest.fixture
def timing(stores: Stores) -> Timing:
    sent: list[Command] = []

    async def handle(intents: Sequence[Intent]) -> list[Answer]:
        sent.extend(i.command for i in intents)
        return [Accepted(1, {}) for _ in intents]

    timers = Timers(stores.database, handle, stores.clock, heartbeat_timeout=30)
    with stores.database.transaction() as tables:
        timers.take_over(tables)
    return Timing(stores, timers, dispatching(stores), sent)


def beat(stores: Stores, *jobs: UUID) -> None:
    with stores.database.transaction() as tables:
        names = {"miner_id": "rig", "session_id": deciding.SESSION}
        assert tables.execute("presence_seen", now=stores.now, gpu_memory_json=None, **names) == 1
        tables.execute(
            "presence_extend",
            lease_until=stores.now + 30_000,
            job_ids=[str(job) for job in jobs],
            **names,
        )


async def test_a_silent_miner_loses_its_leases_and_its_session(timing: Timing) -> None:
    """After one timeout without a heartbeat the attempt and the session are over."""
    job = uuid4()
    await timing.see(
        deciding.registered(at=timing.stores.now), submitted(job), started(job, at=timing.stores.now)
    )
    assert await timing.wait(29) == []
    due = await timing.wait(3)
    assert {type(c).__name__ for c in due} == {"JobLose", "MinerLose"}
    assert [c.attempt for c in due if isinstance(c, JobLose)] == [1]


async def test_heartbeats_keep_what_they_name(timing: Timing) -> None:
    """A lease that a heartbeat names lives on; one that the miner forgot ends, the session does not."""
    kept, forgotten = uuid4(), uuid4()
    now = timing.stores.now
    await timing.see(deciding.registered(at=now), submitted(kept), submitted(forgotten))
    await timing.see(started(kept, at=now), started(forgotten, at=now))
    due: list[Command] = []
    for _ in range(5):
        beat(timing.stores, kept)
        due += await timing.wait(10)
    assert {c.job_id for c in due if isinstance(c, JobLose)} == {forgotten}
    assert not any(isinstance(c, MinerLose) for c in due)


async def test_silence_counts_only_while_we_were_listening(timing: Timing) -> None:
    """After a start, a reconnect or a standstill nothing ends for one full timeout."""
    job = uuid4()
    await timing.see(
        deciding.registered(at=timing.stores.now), submitted(job), started(job, at=timing.stores.now)
    )
    for interruption in ("reconnect", "takeover", "standstill"):
        timing.stores.pass_time(25)
        if interruption == "reconnect":
            timing.timers.restart_silence()
        elif interruption == "takeover":
            with timing.stores.database.transaction() as tables:
                timing.timers.take_over(tables)
        assert await timing.wait(29) == [], interruption
    assert await timing.wait(3) != []


async def test_a_session_that_is_over_leaves_no_leases(timing: Timing) -> None:
    """A miner that left, or came back as another session, loses what the old one held, at once."""
    left, replaced = uuid4(), uuid4()
    now = timing.stores.now
    await timing.see(deciding.registered(at=now), submitted(left), started(left, at=now))
    await timing.see(MinerLeft(at=now, by="rig", miner_id="rig", session_id=deciding.SESSION))
    assert {c.job_id for c in await timing.wait(2) if isinstance(c, JobLose)} == {left}
    await timing.see(lost(left))
    await timing.see(deciding.registered("session-2", at=now), submitted(replaced))
    await timing.see(started(replaced, at=now, session="session-2"))
    await timing.see(deciding.registered("session-3", at=now))
    assert {c.job_id for c in await timing.wait(2) if isinstance(c, JobLose)} == {replaced}


async def test_time_to_live_and_run_time_are_limited_whatever_the_heartbeats_say(timing: Timing) -> None:
    """A job expires at its time, and an attempt that runs longer than its service allows is lost."""
    queued, running = uuid4(), uuid4()
    now = timing.stores.now
    await timing.see(deciding.registered(at=now), submitted(queued, expires_at=now + 20_000))
    await timing.see(submitted(running, timeout_seconds=60))
    await timing.see(started(running, at=now))
    due: list[Command] = []
    for _ in range(7):
        beat(timing.stores, running)
        due += await timing.wait(10)
    assert {c.job_id for c in due if isinstance(c, JobExpire)} == {queued}
    assert {c.job_id for c in due if isinstance(c, JobLose)} == {running}


async def test_what_is_final_needs_no_timer(timing: Timing) -> None:
    """Jobs that came to an end, in the same batch or later, never come due."""
    jobs = [uuid4() for _ in range(3)]
    now = timing.stores.now
    await timing.see(
        deciding.registered(at=now), *itertools.chain(*((submitted(j), started(j, at=now)) for j in jobs))
    )
    await timing.see(completed(jobs[0]), after(jobs[1], JobCanceled, attempt=1, reason=""), lost(jobs[2]))
    await timing.see(after(jobs[2], JobFailed, attempt=1, error_code="LEASE_LOST", error_message=""))
    due: list[Command] = []
    for _ in range(10):
        beat(timing.stores)
        due += await timing.wait(20)
    assert due == []
