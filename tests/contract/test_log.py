"""What every `EventLog` keeps: memory, SQLite and Postgres run the same tests."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder

from coordinator.application.ports import (
    Appended,
    EventLog,
    LogUnavailable,
    NewEvent,
    Page,
    Recorded,
    StoredPayload,
    VersionConflict,
)
from coordinator.dev.servers import PostgresServer
from coordinator.domain.job import JobCanceled, JobCompleted
from coordinator.storage.connections.postgres_pool import APPEND_LOCK, LOCK_CLASS
from coordinator.storage.log.listener import LISTEN_APPLICATION
from coordinator.storage.log.mapping import UnreadableEvent, encode
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.postgres_recorder import PostgresRecorder
from coordinator.storage.log.sqlite import SqliteEventLog
from coordinator.storage.migrate import migrate
from tests.harness.memory_log import MemoryEventLog
from tests.harness.metadata import METADATA
from tests.harness.waiting import eventually_now

PATIENCE = 30.0  # seconds before a test gives up on something that should happen

APPEND_ONE = """
import sys
from uuid import uuid4
from coordinator.application.ports import NewEvent
from coordinator.domain.messages import Metadata
from coordinator.domain.job import JobCanceled
from coordinator.storage.log.postgres import PostgresEventLog
from coordinator.storage.log.sqlite import SqliteEventLog
target, count, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
log = (PostgresEventLog if target.startswith("postgres") else SqliteEventLog)(target)
for _ in range(count // batch):
    ids = [uuid4() for _ in range(batch)]
    events = [JobCanceled(at=1, by="alice", job_id=i, client="alice", attempt=1, reason="") for i in ids]
    log.append([NewEvent(e.job_id, 1, e, Metadata("command-1", "")) for e in events])
log.close()
"""


@dataclass
class Logs:
    """One log, and as many objects on it as a test wants."""

    open: Callable[[], EventLog]
    target: str | None = None
    opened: ExitStack = field(default_factory=ExitStack)

    def __call__(self) -> EventLog:
        log = self.open()
        self.opened.callback(log.close)
        return log


@pytest.fixture
def memory() -> Logs:
    log = MemoryEventLog()
    return Logs(lambda: log)


@pytest.fixture
def sqlite(tmp_path: Path) -> Logs:
    path = tmp_path / "log.sqlite"
    migrate(path)
    return Logs(lambda: SqliteEventLog(path), str(path))


@pytest.fixture
def postgres_logs(database_url: str) -> Logs:
    migrate(database_url)
    return Logs(lambda: PostgresEventLog(database_url), database_url)


@pytest.fixture(params=["memory", "sqlite", "postgres_logs"])
def logs(request: pytest.FixtureRequest) -> Iterator[Logs]:
    """Every log there is."""
    found: Logs = request.getfixturevalue(request.param)
    with found.opened:
        yield found


@pytest.fixture(params=["sqlite", "postgres_logs"])
def shared(request: pytest.FixtureRequest) -> Iterator[Logs]:
    """The logs that outlive an object, and that others may open too."""
    found: Logs = request.getfixturevalue(request.param)
    with found.opened:
        yield found


@pytest.fixture
def on_postgres(postgres_logs: Logs) -> Iterator[Logs]:
    with postgres_logs.opened:
        yield postgres_logs


@pytest.fixture
def log(logs: Logs) -> EventLog:
    return logs()


def canceled(job: UUID, reason: str = "") -> JobCanceled:
    return JobCanceled(at=1, by="alice", job_id=job, client="alice", attempt=1, reason=reason)


def new(stream: UUID, version: int = 1, reason: str = "") -> NewEvent:
    return NewEvent(stream, version, canceled(stream, reason), METADATA)


def payload(job: UUID, body: bytes = b"{}", kind: Any = "payload") -> StoredPayload:
    return StoredPayload(job, kind, b"salt" * 8, body)


def positions(appended: Appended) -> list[int]:
    return [e.position for e in appended.events]


def recorded(appended: Appended, events: list[NewEvent]) -> list[Recorded]:
    """What was appended, as it was asked for."""
    places = positions(appended)
    return [
        Recorded(p, *new[:3], encode(new.event)[1], new.metadata.to_json(), str(new.stream))
        for p, new in zip(places, events, strict=True)
    ]


def conflict(log: EventLog, *streams: UUID) -> None:
    """Fail to append: every stream's first version again."""
    with pytest.raises(VersionConflict):
        log.append([new(stream) for stream in streams], [payload(stream, b"lost") for stream in streams])


@contextmanager
def waiting(log: EventLog, after: int, count: int = 1) -> Iterator[list[Future[bool]]]:
    """Threads that wait for an event after `after`, for longer than the test takes."""
    with ThreadPoolExecutor(count) as threads:
        yield [threads.submit(log.wait, after, PATIENCE) for _ in range(count)]


def append_elsewhere(target: str, count: int = 1, batch: int = 1) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", APPEND_ONE, target, str(count), str(batch)])


# --- appending and reading ---------------------------------------------------------------------------------
def test_an_empty_log(log: EventLog) -> None:
    """A log without events reads as empty everywhere."""
    nobody = uuid4()
    answers = log.head(), log.read(0, 10), log.load([nobody]), log.versions([nobody]), log.load([])
    assert answers == (0, [], {}, {}, {})


def test_many_streams_in_one_append(log: EventLog) -> None:
    """An append takes events of many streams, and gives them ascending positions in their order."""
    a, b = uuid4(), uuid4()
    events = [new(a, 1), new(b, 1), new(a, 2)]
    appended = log.append(events)
    assert positions(appended) == sorted(set(positions(appended)))
    assert recorded(appended, events) == log.read(0, 10)
    assert positions(appended)[-1] == log.head()


def test_load_many(log: EventLog) -> None:
    """Streams load together, each in version order; one that does not exist is absent."""
    a, b, c = uuid4(), uuid4(), uuid4()
    events = [new(a, 1), new(b, 1), new(c, 1), new(a, 2), new(b, 2), new(a, 3)]
    all_of = recorded(log.append(events), events)
    expected = {stream: [r for r in all_of if r.stream == stream] for stream in (a, b)}
    assert expected == log.load([a, b, uuid4()])


def test_versions_of_many(log: EventLog) -> None:
    """The current versions come together; a stream that does not exist is absent."""
    a, b = uuid4(), uuid4()
    log.append([new(a, 1), new(b, 1), new(a, 2)])
    log.append([new(a, 3)])
    assert {a: 3, b: 1} == log.versions([a, uuid4(), b])


def test_thousands_of_streams(log: EventLog) -> None:
    """One append and one load take more streams than SQLite takes parameters (32,766)."""
    streams = [uuid4() for _ in range(33_000)]
    log.append([new(stream) for stream in streams])
    assert dict.fromkeys(streams, 1) == log.versions(streams)
    assert set(streams) == log.load(streams).keys()


def test_reading_in_pages(log: EventLog) -> None:
    """Pages of the log follow each other without a gap or a repeat, whatever their size."""
    events = [new(uuid4()) for _ in range(7)]
    expected = recorded(log.append(events), events)
    pages: list[Recorded] = []
    after = 0
    while page := log.read(after, 3):
        pages += page
        after = page[-1].position
    assert expected == pages


def test_reading_one_clients_events_in_pages(log: EventLog) -> None:
    """A client's events come in bounded pages within bounds, and nobody else's, whatever a miner calls its
    metrics; a page says how far it looked."""
    mine = [new(uuid4()) for _ in range(5)]
    others = [
        NewEvent(i, 1, canceled(i).model_copy(update={"client": "bob"}), METADATA)
        for i in (uuid4() for _ in range(6))
    ]
    trap = uuid4()
    hostile = JobCompleted(
        at=1,
        by="rig",
        job_id=trap,
        client="bob",
        attempt=1,
        miner_id="rig",
        session_id="session-1",
        result_digest="a" * 64,
        metrics={"client": "alice"},
        units="1.000",
        price="0.002000",
        started_at=1,
        completed_at=2,
        statement={"client": "alice"},
    )
    appended = log.append(
        [mine[0], *others[:3], NewEvent(trap, 1, hostile, METADATA), *mine[1:4], *others[3:], mine[4]]
    )
    own = [r for r in log.read(0, 100) if r.event in [n.event for n in mine]]
    end = positions(appended)[-1]
    assert Page(own, end) == log.read_of("alice", 0, end, 100)
    assert Page(own[:1], positions(appended)[4]) == log.read_of("alice", 0, end, 2)
    assert Page(own[1:3], own[2].position) == log.read_of("alice", positions(appended)[4], end, 2)
    assert Page([], end) == log.read_of("ali", 0, end, 100)
    assert Page(own[4:], end) == log.read_of("alice", own[3].position, end, 100)
    assert Page(own[:1], own[1].position - 1) == log.read_of("alice", 0, own[1].position - 1, 100)


def test_previous_is_exact(logs: Logs) -> None:
    """An append says what the last position before it was, also after appends of others and lost ones."""
    first, second = logs(), logs()
    a = first.append([new(uuid4())])
    stream = uuid4()
    b = second.append([new(stream), new(uuid4())])
    conflict(first, stream)
    c = first.append([new(uuid4())])
    assert (0, positions(a)[-1], positions(b)[-1]) == (a.previous, b.previous, c.previous)


def test_reading_over_gaps(log: EventLog) -> None:
    """A failed append may burn positions: reading goes on behind them, from any position."""
    taken = uuid4()
    first = log.append([new(taken)])
    conflict(log, uuid4(), uuid4(), taken)
    events = [new(uuid4()), new(uuid4())]
    second = log.append(events)
    after = range(positions(first)[-1], positions(second)[0])
    assert [recorded(second, events)] * len(after) == [log.read(position, 10) for position in after]


@pytest.mark.parametrize("text", ["'; DROP TABLE jobs; --", '"{}', "\\x00\x00", "日本語🎛", "%s %(a)s", "\n"])
def test_hostile_text(log: EventLog, text: str) -> None:
    """Text in an event, and bytes in a payload, come back as they were."""
    stream = uuid4()
    body = text.encode() + bytes(range(256))
    log.append([new(stream, 1, text)], [payload(stream, body)])
    assert [canceled(stream, text)] == [r.event for r in log.load([stream])[stream]]
    assert {stream: payload(stream, body)} == log.payloads("payload", [stream])


def test_unreadable_events_stop_the_reader(log: Any) -> None:
    """An event that this version does not know is an error that says where, for every way of reading."""
    stream = uuid4()
    log.recorder.insert_events([StoredEvent(stream, 1, "job.teleported.v1", b"{}")])
    reads: list[Callable[[], object]] = [lambda: log.read(0, 10), lambda: log.load([stream])]
    for read in reads:
        with pytest.raises(UnreadableEvent, match=rf"stream {stream}, version 1: unknown topic"):
            read()


# --- conflicts ---------------------------------------------------------------------------------------------
def test_a_conflict_leaves_nothing(log: EventLog) -> None:
    """Where one version is taken, nothing of the append is there: no event, no payload."""
    taken, other = uuid4(), uuid4()
    log.append([new(taken)], [payload(taken, b"kept")])
    before = log.read(0, 10)
    conflict(log, other, taken)
    assert before == log.read(0, 10)
    assert {taken: payload(taken, b"kept")} == log.payloads("payload", [taken, other])


def test_a_conflict_with_itself(log: EventLog) -> None:
    """The same version twice in one append is a conflict too."""
    stream = uuid4()
    conflict(log, stream, uuid4(), stream)
    assert log.read(0, 10) == []


def test_only_one_of_many_wins(logs: Logs) -> None:
    """Of many appends of one version at the same time, one succeeds and the others conflict."""
    stream = uuid4()
    start = threading.Barrier(8)

    def append() -> bool:
        log = logs()
        start.wait()
        try:
            log.append([new(uuid4()), new(stream)])
        except VersionConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = sum(f.result() for f in [threads.submit(append) for _ in range(8)])
    assert (1, {stream: 1}, 2) == (won, logs().versions([stream]), len(logs().read(0, 100)))


# --- payloads ----------------------------------------------------------------------------------------------
def test_payloads_come_with_the_append(log: EventLog) -> None:
    """Payloads and results are stored beside the events, and are found by job and kind."""
    a, b = uuid4(), uuid4()
    log.append([new(a), new(b)], [payload(a, b"A"), payload(b, b"B"), payload(a, b"R", "result")])
    assert {a: payload(a, b"A"), b: payload(b, b"B")} == log.payloads("payload", [a, b, uuid4()])
    assert {a: payload(a, b"R", "result")} == log.payloads("result", [a, b])


def test_a_repeated_payload_replaces(log: EventLog) -> None:
    """The last payload of a job and kind counts, within one append and after it."""
    job = uuid4()
    log.append([new(job, 1)], [payload(job, b"1"), payload(job, b"2")])
    assert {job: payload(job, b"2")} == log.payloads("payload", [job])
    log.append([new(job, 2)], [payload(job, b"3")])
    assert {job: payload(job, b"3")} == log.payloads("payload", [job])


def test_erasing_leaves_the_log(log: EventLog) -> None:
    """Erased payloads and results are gone, those of others and the events stay; erasing again is nothing."""
    a, b = uuid4(), uuid4()
    events = [new(a), new(b)]
    appended = log.append(events, [payload(a), payload(a, b"R", "result"), payload(b)])
    log.erase([a, uuid4()])
    log.erase([a])
    assert {b: payload(b)} == log.payloads("payload", [a, b])
    assert log.payloads("result", [a, b]) == {}
    assert recorded(appended, events) == log.read(0, 10)


def test_erasing_one_kind_leaves_the_other(log: EventLog) -> None:
    """A result may go while its payload stays, and the other way round."""
    a, b = uuid4(), uuid4()
    log.append([new(a), new(b)], [p for job in (a, b) for p in (payload(job), payload(job, b"R", "result"))])
    log.erase([a], "result")
    log.erase([b], "payload")
    assert {a: payload(a)} == log.payloads("payload", [a, b])
    assert {b: payload(b, b"R", "result")} == log.payloads("result", [a, b])


def test_what_was_appended_stays(shared: Logs) -> None:
    """A log that is opened again has everything that an earlier one was answered for."""
    first = shared()
    job = uuid4()
    appended = first.append([new(job)], [payload(job)])
    first.close()
    again = shared()
    assert recorded(appended, [new(job)]) == again.read(0, 10)
    assert {job: payload(job)} == again.payloads("payload", [job])


# --- waiting -----------------------------------------------------------------------------------------------
def test_wait_for_what_is_there(log: EventLog) -> None:
    """Waiting for an event that is there already returns at once, also when it came from before."""
    log.append([new(uuid4())])
    assert log.wait(0, PATIENCE)


def test_wait_gives_up(log: EventLog) -> None:
    """Waiting for an event that does not come ends after the timeout."""
    position = positions(log.append([new(uuid4())]))[-1]
    assert [log.wait(position, 0.05), log.wait(position, 0)] == [False, False]


def test_an_append_wakes_all(logs: Logs) -> None:
    """An append through another object wakes everybody who waits."""
    log, other = logs(), logs()
    with waiting(log, log.head(), count=5) as woken:
        other.append([new(uuid4())])
        assert [w.result(PATIENCE) for w in woken] == [True] * 5


def test_wait_sees_other_processes(shared: Logs) -> None:
    """An append by another process wakes too."""
    log = shared()
    assert shared.target is not None
    with waiting(log, 0) as woken, append_elsewhere(shared.target) as process:
        assert woken[0].result(PATIENCE)
    assert process.returncode == 0


def test_events_between_two_waits(logs: Logs) -> None:
    """What others append while nobody waits is there for the next wait."""
    log, other = logs(), logs()
    assert not log.wait(0, 0)
    with waiting(log, 0) as woken:
        other.append([new(uuid4())])
        assert woken[0].result(PATIENCE)
    before = other.head()
    for _ in range(3):
        other.append([new(uuid4())])
    assert log.wait(before, PATIENCE)


def test_close_wakes(logs: Logs) -> None:
    """Closing the only log ends the waiting on it, for good."""
    log = logs()
    with waiting(log, 0, count=3) as woken:
        log.close()
        assert [w.result(PATIENCE) for w in woken] == [False] * 3
    assert not log.wait(0, PATIENCE)


def test_close_wakes_no_others(logs: Logs) -> None:
    """Closing a log ends the waiting on it, leaves other objects alone, and may be done twice."""
    log, other = logs(), logs()
    with waiting(log, 0, count=3) as woken:
        log.close()
        assert [w.result(PATIENCE) for w in woken] == [False] * 3
    log.close()
    if other is not log:
        assert len(positions(other.append([new(uuid4())]))) == 1


# --- Postgres alone ----------------------------------------------------------------------------------------
def listeners(url: str) -> list[int]:
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = current_database() "
            "AND query <> ''",
            (LISTEN_APPLICATION,),
        ).fetchall()
        return [pid for (pid,) in rows]


def test_the_listener_is_started_again(on_postgres: Logs) -> None:
    """Whoever waits is woken although the connection that listens was killed while they waited."""
    log, other = on_postgres(), on_postgres()
    url = on_postgres.target
    assert url is not None
    with waiting(log, 0, count=3) as woken:
        eventually_now(lambda: listeners(url))
        (killed,) = listeners(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", (killed,))
        other.append([new(uuid4())])
        assert [w.result(PATIENCE) for w in woken] == [True] * 3
    eventually_now(lambda: listeners(url) not in ([], [killed]))


def test_appends_wait_for_each_other_alone(on_postgres: Logs) -> None:
    """An append waits for another one's lock, and not for the table's, which VACUUM takes."""
    log, other = on_postgres(), PostgresEventLog(on_postgres.target or "")
    on_postgres.opened.callback(other.close)
    with waiting(log, 0) as woken, ThreadPoolExecutor(1) as threads, psycopg.connect(other._url) as holder:
        holder.execute("LOCK TABLE stored_events IN SHARE UPDATE EXCLUSIVE MODE")  # what VACUUM takes
        appending = threads.submit(other.append, [new(uuid4())])
        assert [1] == positions(appending.result(PATIENCE))
        assert woken[0].result(PATIENCE)
        holder.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, APPEND_LOCK))
        appending = threads.submit(other.append, [new(uuid4())])
        eventually_now(lambda: _waits_for_a_lock(holder))
        holder.rollback()
        assert [2] == positions(appending.result(PATIENCE))


def _waits_for_a_lock(connection: psycopg.Connection) -> bool:
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    return connection.execute(waiting).fetchone() is not None


def test_the_librarys_function_without_a_lock_is_not_there(on_postgres: Logs) -> None:
    """The library's append function, which takes no lock, is never made."""
    with psycopg.connect(on_postgres.target or "") as connection:
        names = connection.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY proname"
        ).fetchall()
    assert names == [("coordinator_append_v1",)]


def test_a_held_lock_is_unavailability(on_postgres: Logs) -> None:
    """Where another session keeps the append lock, an append gives up and says so; nothing is appended."""
    log = on_postgres()
    with psycopg.connect(on_postgres.target or "") as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_CLASS, APPEND_LOCK))
        with pytest.raises(LogUnavailable, match="lock timeout"):
            log.append([new(uuid4())])
    assert len(positions(log.append([new(uuid4())]))) == 1


def test_surviving_a_restart_of_the_server(breakable_postgres: PostgresServer) -> None:
    """While the server is away each call says so soon; afterwards the same object works, waiters included."""
    url = breakable_postgres.new_database()
    migrate(url)
    log = PostgresEventLog(url)
    try:
        first = log.append([new(uuid4())])
        assert log.wait(0, PATIENCE)
        with waiting(log, log.head(), count=3) as woken:
            breakable_postgres.kill()
            started = monotonic()
            for use in (lambda: log.append([new(uuid4())]), log.head, lambda: log.read(0, 1)):
                with pytest.raises(LogUnavailable):
                    use()
            assert monotonic() - started < PATIENCE
            breakable_postgres.start()
            second = eventually_now(lambda: log.append([new(uuid4())]))
            assert [w.result(PATIENCE) for w in woken] == [True] * 3
        assert [*positions(first), *positions(second)] == [r.position for r in log.read(0, 10)]
        # And the listener, not only our own append, works again.
        with waiting(log, log.head()) as woken, append_elsewhere(url):
            assert woken[0].result(PATIENCE)
    finally:
        log.close()


# --- nothing is ever skipped -------------------------------------------------------------------------------
def test_no_reader_ever_skips(shared: Logs) -> None:
    """A reader that follows the head misses no event of several writing processes, nor sees one too early.

    On Postgres with VACUUM, ANALYZE and CREATE INDEX CONCURRENTLY running all the while: their locks used to
    stop the writers.
    """
    assert shared.target is not None
    writers, count, batch = 4, 1_500, 5
    log = shared()
    done = threading.Event()
    seen: list[Recorded] = []

    def follow() -> None:
        after = 0
        while len(seen) < writers * count and not done.is_set():
            log.wait(after, 1)
            page = log.read(after, 50)
            seen.extend(page)
            after = page[-1].position if page else after

    with ThreadPoolExecutor(2) as threads, ExitStack() as processes:
        following = threads.submit(follow)
        housekeeping = threads.submit(_keep_house, shared.target, done)
        try:
            started = [
                processes.enter_context(append_elsewhere(shared.target, count, batch)) for _ in range(writers)
            ]
            assert [0] * writers == [process.wait(4 * PATIENCE) for process in started]
            following.result(PATIENCE)
        finally:
            done.set()
        assert housekeeping.result(PATIENCE) >= 1
    assert writers * count == len(seen)
    assert log.read(0, len(seen) + 1) == seen


def _keep_house(target: str, done: threading.Event) -> int:
    """VACUUM and the like, over and over; how often."""
    if not target.startswith("postgres"):
        return 1
    rounds = 0
    with psycopg.connect(target, autocommit=True) as connection:
        while not done.is_set():
            for statement in (
                "VACUUM ANALYZE stored_events",
                "CREATE INDEX CONCURRENTLY passing ON stored_events (topic)",
                "DROP INDEX CONCURRENTLY passing",
            ):
                connection.execute(statement)
            rounds += 1
    return rounds


def test_the_recorder_is_the_librarys() -> None:
    """Our recorders are the library's, so that its tools and its shipped tests apply."""
    assert issubclass(PostgresRecorder, PostgresApplicationRecorder)
