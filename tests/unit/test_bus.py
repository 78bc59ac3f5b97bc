"""Group commit: many commands, one append, and nobody answered before it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.commands.bus import MAX_TRIES, CommandBus
from coordinator.application.commands.cache import CachedState, StateCache
from coordinator.application.ports import (
    Appended,
    LogUnavailable,
    NewEvent,
    Recorded,
    StoredPayload,
    VersionConflict,
)
from coordinator.domain.decision import fold
from coordinator.domain.errors import Code
from coordinator.domain.job import (
    Expired,
    JobCancel,
    JobExpire,
    JobFail,
    JobLose,
    JobRelease,
    JobStart,
    is_final,
    job_stream,
)
from coordinator.domain.messages import SYSTEM, Principal
from coordinator.domain.service import ServiceRegister, service_stream
from coordinator.wire.answers import Accepted, Refused
from tests.harness.bus import ALICE, BOB, Bench, WatchedLog, codes, submit
from tests.harness.deciding import RIG, a_spec


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(WatchedLog())
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec()), by=SYSTEM)
    bench.log.appends.clear()
    yield bench
    await bench.bus.stop()


async def test_commands_that_wait_together_are_appended_together(bench: Bench) -> None:
    """While one commit is under way the next commands gather, and go in a transaction or two."""
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(10)

    bench.log.before_append = hold
    first = asyncio.create_task(bench.send(submit("first")))
    await asyncio.to_thread(entered.wait, 10)
    bench.log.before_append = lambda: None
    others = [asyncio.create_task(bench.send(submit(f"other {n}"))) for n in range(50)]
    await asyncio.sleep(0)
    assert not first.done()  # nobody is answered before the commit
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))
    go_on.set()
    answers = [a for task in (first, *others) for a in await task]
    assert codes(answers) == ["accepted"] * 51
    # The next batch is taken as soon as one command waits: those that come while it is decided are a third.
    assert bench.log.appends[0] == 1
    assert len(bench.log.appends) <= 3
    assert sum(bench.log.appends) == 51


async def test_answers_carry_positions_and_come_in_the_order_of_the_commands(bench: Bench) -> None:
    """Each accepted command is told where its own effect is in the log."""
    answers = await bench.send(*(submit(str(n)) for n in range(5)))
    positions = [a.position for a in answers if isinstance(a, Accepted)]
    # The service and its name came first.
    assert positions == [3, 4, 5, 6, 7]
    assert [appended.previous for appended in bench.committed] == [0, 2]


async def test_a_refusal_fails_its_own_command_only(bench: Bench) -> None:
    """One bad command in a batch does not keep the others from being recorded."""
    answers = await bench.send(submit("a"), submit("b", service="unknown"), submit("c"))
    assert codes(answers) == ["accepted", "SERVICE_NOT_FOUND", "accepted"]
    assert bench.log.appends == [2]


async def test_an_unexpected_exception_fails_its_own_command_only(bench: Bench) -> None:
    """A decision that breaks is answered INTERNAL, and recorded nowhere."""
    good = (await bench.prepare(submit("broken")))[0]
    broken = good._replace(reads=())  # what the decision needs is not there
    whole = (await bench.prepare(submit("whole")))[0]
    answers = await bench.bus.submit([broken, whole])
    assert codes(answers) == ["INTERNAL", "accepted"]


async def test_commands_of_one_batch_see_each_other(bench: Bench) -> None:
    """A submit and its repeat in one batch are one job, and both get the same answer."""
    first, repeat = await bench.send(submit("same"), submit("same"))
    assert first == repeat
    assert bench.log.appends == [1]


async def test_each_command_of_a_batch_is_told_the_end_of_its_stream_so_far(bench: Bench) -> None:
    """A repeat's position is where its effect is, before the batch or in it: as if they came one by one."""
    await bench.send(submit("early"))
    early, job = (JobCancel(job_id=job_stream("alice", key)) for key in ("early", "job"))
    together = [
        submit("early"),
        submit("job"),
        submit("job"),
        early,
        job,
        submit("job"),
        early,
        submit("early"),
    ]
    answers = await bench.send(*together)
    assert [3, 4, 4, 5, 6, 6, 5, 5] == [a.position for a in answers if isinstance(a, Accepted)]
    states = [a.body["state"] for a in answers if isinstance(a, Accepted)]
    assert ["QUEUED"] * 3 + ["CANCELED"] * 5 == states


async def test_a_payload_is_stored_for_the_command_that_had_an_effect(bench: Bench) -> None:
    """A repeat has a salt of its own: were its payload stored, the job's digest would fit no more."""
    first, repeat = await bench.prepare(submit("job"), submit("job"))
    late, refused = await bench.prepare(submit("job"), submit("job", payload={"text": "other"}))
    answers = await bench.bus.submit([first, repeat])
    answers += await bench.bus.submit([late, refused])
    assert ["accepted"] * 3 + ["IDEMPOTENCY_MISMATCH"] == codes(answers)
    assert first.payload is not None
    assert len({p.payload.salt for p in (first, repeat, late) if p.payload}) == 3
    assert {first.stream: first.payload} == bench.log.payloads("payload", [first.stream])


async def test_what_was_committed_is_known_without_a_look(bench: Bench) -> None:
    """After a batch the cache has each stream as the log has it: its state, its last version and position."""
    job = job_stream("alice", "job")
    await bench.send(submit("job"), submit("other"), JobCancel(job_id=job), submit("bad", service="unknown"))
    streams = {recorded.stream for recorded in bench.log.read(0, 100)}
    for stream, events in bench.log.load(streams).items():
        known = CachedState(fold([e.event for e in events]), events[-1].version, events[-1].position)
        assert known == bench.bus.cache.get(stream)
    assert bench.bus.cache.get(job_stream("alice", "bad")) is None


@pytest.mark.parametrize("read", [CommandBus.states, CommandBus._load])
async def test_what_was_read_before_another_process_appended_is_not_kept(
    bench: Bench, read: Callable[..., Awaitable[Any]]
) -> None:
    """An event that is told while its stream is read makes the read state old; the next read has it."""
    job = job_stream("alice", "job")
    await bench.send(submit("job"))
    bench.bus.cache.drop([job])
    [moved] = bench.log.load([job])[job]
    original = bench.log.load
    loop = asyncio.get_running_loop()

    def load(streams: Collection[UUID]) -> Mapping[UUID, Sequence[Recorded]]:
        found: Mapping[UUID, Sequence[Recorded]] = original(streams)
        told = threading.Event()

        def tell() -> None:
            bench.bus.forget([moved._replace(version=2)])
            told.set()

        loop.call_soon_threadsafe(tell)
        assert told.wait(10)
        return found

    bench.log.load = load
    await read(bench.bus, [job])
    assert bench.bus.known(job) is None
    bench.log.load = original
    await read(bench.bus, [job])
    assert bench.bus.known(job) is not None


async def test_what_keeps_a_batch_from_being_appended_is_singled_out(bench: Bench) -> None:
    """After MAX_TRIES each is decided by itself: the one that always conflicts is refused, no other is."""
    unlucky = job_stream("alice", "unlucky")
    original: Callable[..., Appended] = bench.log.append

    def append(events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        if any(event.stream == unlucky for event in events):
            raise VersionConflict("again")
        return original(events, payloads)

    bench.log.append = append
    answers = await bench.send(submit("a"), submit("unlucky"), submit("b"), submit("a"))
    assert ["accepted", "UNAVAILABLE", "accepted", "accepted"] == codes(answers)
    assert [3, 4, 3] == [a.position for a in answers if isinstance(a, Accepted)]
    assert (2 * MAX_TRIES, 4) == (bench.bus.stats.conflicts, bench.bus.stats.singled_out)


async def test_the_same_key_with_another_request_is_refused(bench: Bench) -> None:
    """IDEMPOTENCY_MISMATCH, whatever it is that differs; another client's key is another key."""
    await bench.send(submit("key"))
    answers = await bench.send(
        submit("key", payload={"text": "other"}), submit("key", ttl_seconds=10), submit("key", priority=1)
    )
    assert codes(answers) == ["IDEMPOTENCY_MISMATCH"] * 3
    assert codes(await bench.send(submit("key"), by=BOB)) == ["accepted"]


async def test_a_repeat_after_a_restart_meets_itself(bench: Bench) -> None:
    """A bus that knows nothing yet gives a repeated command the first answer."""
    [first] = await bench.send(submit("key"))
    restarted = Bench(bench.log)
    await restarted.bus.start()
    [repeat] = await restarted.send(submit("key"))
    await restarted.bus.stop()
    assert first == repeat


async def test_a_new_submit_reads_nothing_and_a_repeat_is_found_by_its_conflict(bench: Bench) -> None:
    """The usual submit costs no query; one that another process has recorded gets that one's answer."""
    loads = bench.log.loads
    await bench.send(submit("usual"))
    assert loads == bench.log.loads
    other = Bench(bench.log)
    await other.bus.start()
    [first] = await other.send(submit("theirs"))
    await other.bus.stop()
    [repeat, new] = await bench.send(submit("theirs"), submit("new"))
    assert first == repeat
    assert isinstance(new, Accepted)
    # The other bus looked up the name and the service; this one looked once, after the conflict.
    assert bench.log.loads == loads + 3


async def test_a_conflict_decides_the_whole_batch_again(bench: Bench) -> None:
    """Another process takes a stream's version meanwhile: the batch is folded and decided once more."""
    [accepted] = await bench.send(submit("job"))
    assert isinstance(accepted, Accepted)
    other = Bench(bench.log)
    await other.bus.start()
    await other.send(JobCancel(job_id=accepted.body["job_id"]))
    # This bus still has the job as queued.
    answers = await bench.send(JobCancel(job_id=accepted.body["job_id"]), submit("another"))
    await other.bus.stop()
    assert codes(answers) == ["accepted", "accepted"]
    assert bench.bus.stats.conflicts == 1


async def test_a_refusal_from_a_stale_state_is_decided_again(bench: Bench) -> None:
    """What this process has cached is checked before it refuses: another process may have moved it."""
    await bench.send(submit("early", service="later"))  # nothing is cached of a service that is not there
    other = Bench(bench.log)
    await other.bus.start()
    await other.send(ServiceRegister(spec=a_spec(id="later")), by=SYSTEM)
    await other.bus.stop()
    assert codes(await bench.send(submit("now", service="later"))) == ["accepted"]


async def test_an_unreachable_log_is_answered_unavailable_and_nothing_is_cached(bench: Bench) -> None:
    """UNAVAILABLE means: send it again. What is cached of these streams is forgotten."""

    def fail() -> None:
        raise LogUnavailable("gone")

    bench.log.before_append = fail
    assert codes(await bench.send(submit("job"))) == ["UNAVAILABLE"]
    bench.log.before_append = lambda: None
    assert codes(await bench.send(submit("job"))) == ["accepted"]


async def test_a_commit_whose_acknowledgement_was_lost_is_not_repeated(bench: Bench) -> None:
    """The append took place and its answer was lost: the repeated command finds its own effect."""
    original: Callable[..., Appended] = bench.log.append
    lost = iter([True])

    def append(events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        appended = original(events, payloads)
        if next(lost, False):
            raise VersionConflict("what the retry of a committed insert says")
        return appended

    bench.log.append = append
    before = bench.log.head()
    assert codes(await bench.send(submit("job"))) == ["accepted"]
    assert bench.log.head() == before + 1


async def test_a_stop_answers_what_waits_and_refuses_what_comes_later(bench: Bench) -> None:
    """Nobody waits for ever: commands before the stop are committed, later ones are answered UNAVAILABLE."""
    waiting = asyncio.create_task(bench.send(submit("before")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await bench.bus.stop()
    await bench.bus.stop()
    assert codes(await waiting) == ["accepted"]
    assert codes(await bench.send(submit("after"))) == ["UNAVAILABLE"]


async def test_another_clients_job_looks_like_no_job(bench: Bench) -> None:
    """Cancelling what is not one's own tells nothing about whether it exists."""
    [accepted] = await bench.send(submit("hers"))
    assert isinstance(accepted, Accepted)
    [refused] = await bench.send(JobCancel(job_id=accepted.body["job_id"]), by=BOB)
    assert isinstance(refused, Refused)
    assert refused.code is Code.JOB_NOT_FOUND


async def test_a_blob_of_somebody_else_is_no_blob() -> None:
    """A payload may refer to what its sender uploaded, and to nothing else."""
    ref = f"blob:{'a' * 64}"
    bench = Bench(WatchedLog(), unowned={(ref, "alice")})
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec()), by=SYSTEM)
    answers = await bench.send(submit("theft", payload={"text": ref}))
    await bench.bus.stop()
    assert codes(answers) == ["BLOB_NOT_FOUND"]


async def test_the_id_of_another_kind_of_stream_looks_like_a_job_that_is_not_there(bench: Bench) -> None:
    """A job id is the sender's word: one that names a service's stream finds no job, with the same text."""
    entry = service_stream(a_spec().id)
    attempt = {"attempt": 1, "miner_id": "rig", "session_id": "session-1"}
    about: list[tuple[Any, dict[str, Any], Principal]] = [
        (JobStart, attempt, RIG),
        (JobFail, attempt | {"error_code": "FAILED"}, RIG),
        (JobRelease, attempt, RIG),
        (JobCancel, {}, ALICE),
        (JobLose, {"attempt": 1, "reason": "silent"}, SYSTEM),
        (JobExpire, {}, SYSTEM),
    ]
    for command, fields, by in about:
        [missing] = await bench.send(command(job_id=_uuid(1), **fields), by=by)
        [other] = await bench.send(command(job_id=entry, **fields), by=by)
        assert Refused(Code.JOB_NOT_FOUND, "no such job") == missing == other


def test_the_cache_is_bounded_and_drops_what_was_used_least_lately() -> None:
    """Memory does not grow with the number of aggregates."""
    cache = StateCache(is_final, max_bytes=0)
    streams = [_uuid(n) for n in range(40)]
    for stream in streams:
        cache.put(stream, CachedState(None, 1, 1))
        cache.get(streams[0])
    assert cache.get(streams[0]) is not None
    assert cache.get(streams[1]) is None
    assert cache.get(streams[39]) is not None


def test_jobs_that_are_over_leave_the_cache_first() -> None:
    """What still has commands to come is not pushed out by what is done."""
    cache = StateCache(is_final, max_bytes=0)
    live, over = [_uuid(n) for n in range(20)], [_uuid(n) for n in range(100, 140)]
    for stream in live:
        cache.put(stream, CachedState(None, 1, 1))
    for stream in over:
        cache.put(stream, CachedState(None, 1, 1))
        cache.put(stream, CachedState(Expired(None, ()), 2, 2))  # type: ignore[arg-type]
    assert all(cache.get(stream) is not None for stream in live)
    assert cache.get(over[0]) is None
    assert cache.get(over[-1]) == CachedState(Expired(None, ()), 2, 2)  # type: ignore[arg-type]


def _uuid(number: int) -> Any:
    from uuid import UUID

    return UUID(int=number)
