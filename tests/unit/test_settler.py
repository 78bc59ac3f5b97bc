"""The settler: ended jobs are settled in their order, each once, whatever a process had read before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, cast
from uuid import UUID

import pytest

from coordinator.application.money import settler as module
from coordinator.application.money.settler import AGAIN_SECONDS, PACE_SECONDS, Settler
from coordinator.application.ports import Clock, Intent, NewEvent, Recorded
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.statement import sign_statement
from coordinator.domain.account import (
    AccountBill,
    AccountDeposit,
    AccountLapse,
    AccountSettle,
    PaymentBilled,
    PaymentLapsed,
    PaymentsSettled,
    Terms,
    account_stream,
)
from coordinator.domain.errors import Code
from coordinator.domain.job import JobCancel, job_stream
from coordinator.domain.messages import SYSTEM, Millis
from coordinator.domain.service import ServiceRegister
from coordinator.wire.answers import Answer, Refused
from tests.harness.bus import Bench, WatchedLog, codes, submit
from tests.harness.deciding import ADMIN, RIG, SESSION, a_spec, started
from tests.harness.memory_log import MemoryEventLog
from tests.harness.metadata import METADATA

FULL = 4
"""Jobs of a full settlement here."""
KEY = SigningKey(bytes(32))
"""Of the miner."""


class Process:
    """A process with a settler, which reads a log that others write, too."""

    def __init__(self, log: MemoryEventLog, bench: Bench) -> None:
        self.log = log
        self.seconds = 1000.0
        self.sent: list[list[int]] = []
        """The positions that each command named."""
        self.lapsed: list[list[UUID]] = []
        """The jobs whose holds were to end, by array of commands."""
        self.is_refused = False
        self.seen = 0

        async def handle(intents: Sequence[Intent]) -> list[Answer]:
            commands = [cast("Any", intent.command) for intent in intents]
            lapses = [command.job_id for command in commands if isinstance(command, AccountLapse)]
            self.lapsed += [lapses] if lapses else []
            settles = [command for command in commands if isinstance(command, AccountSettle)]
            self.sent += [[position for _, position in command.jobs] for command in settles]
            if self.is_refused:
                return [Refused(Code.UNAVAILABLE, "not now") for _ in intents]
            return await bench.gateway.handle(intents)

        clock = Clock(now=bench.clock.clock.now, monotonic=lambda: self.seconds)
        self.settler = Settler(log, handle, clock)

    def take_over(self, seen: int | None = None, projected: int | None = None) -> None:
        """Its stored position, and the projector's; None for the head of the log."""
        head = self.log.head()
        self.seen = head if seen is None else seen
        until = head if projected is None else projected
        self.settler.take_over(cast("Any", Positions(self.seen, until, kept(self.log, until))))

    async def read(self, count: int = 1000, *, ticks: bool = True) -> None:
        """Act on the next events, and tick, as the runner does; or stop before the tick."""
        events: Sequence[Recorded] = self.log.read(self.seen, count)
        if events:
            self.seen = events[-1].position
            await self.settler.act(events)
            if ticks:
                await self.tick(0)

    async def tick(self, seconds: float = PACE_SECONDS) -> None:
        self.seconds += seconds
        await self.settler.tick(self.seen)
        if self.settler.settling is not None:
            await self.settler.settling


class Positions:
    """What a settler asks of tables: stored positions, and the kept jobs as far as the projector came."""

    def __init__(self, position: int, projected: int, kept: dict[UUID, Millis]) -> None:
        self._of = {"settler": position, "projector": projected}
        self._kept = kept

    def position(self, follower: str) -> int:
        return self._of[follower]

    def query(self, name: str) -> list[dict[str, Any]]:
        assert name == "accounts_kept"
        return [{"job_id": str(job_id), "kept_until": until} for job_id, until in self._kept.items()]


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "MAX_SETTLED", FULL)
    monkeypatch.setattr(module, "READ_EVENTS", 3)
    bench = Bench(WatchedLog(), terms=Terms())
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec(max_units="20")), by=SYSTEM)
    await bench.send(AccountDeposit(party="alice", amount=10**9, business_id="d1"), by=ADMIN)
    yield bench
    await bench.bus.stop()


async def end(bench: Bench, *keys: str) -> list[int]:
    """Submit jobs and cancel them; the positions of their ends."""
    for key in keys:
        await bench.send(submit(key))
    return [await canceled(bench, key) for key in keys]


async def canceled(bench: Bench, key: str) -> int:
    job_id = job_stream("alice", key)
    await bench.send(JobCancel(job_id=job_id))
    position: int = bench.log.load([job_id])[job_id][-1].position
    return position


def kept(log: MemoryEventLog, until: int) -> dict[UUID, Millis]:
    """The jobs whose holds wait for statements at this position of the log."""
    found: dict[UUID, Millis] = {}
    for recorded in log.read(0, 1000):
        event = recorded.event
        if recorded.position > until:
            break
        if isinstance(event, PaymentsSettled):
            found |= {one.job_id: event.kept_until or 0 for one in event.kept}
        elif isinstance(event, PaymentBilled | PaymentLapsed):
            del found[event.job_id]
    return found


def settled(bench: Bench) -> list[list[UUID]]:
    """The jobs of each settlement in the log."""
    events = [recorded.event for recorded in bench.log.read(0, 1000)]
    return [event.jobs for event in events if isinstance(event, PaymentsSettled)]


def ids(*keys: str) -> list[UUID]:
    return [job_stream("alice", key) for key in keys]


async def held(bench: Bench) -> int:
    return int((await bench.bus.state(account_stream("alice"))).held)


async def test_ended_jobs_are_settled_together_at_the_next_tick(bench: Bench) -> None:
    """In the order of their ends; nothing is sent while nothing has ended."""
    process = Process(bench.log, bench)
    process.take_over()
    await bench.send(submit("open"))
    await process.read()
    await process.tick()
    assert process.sent == []
    ends = await end(bench, "a", "b", "c")
    await process.read()
    await process.tick()
    await process.read()
    await process.tick()
    assert process.sent == [ends]
    assert settled(bench) == [ids("a", "b", "c")]
    assert await held(bench) == 40_000


async def test_a_full_settlement_does_not_wait_and_the_others_keep_the_pace(bench: Bench) -> None:
    """As many as one command may have are settled at once; what is left waits for its tick."""
    process = Process(bench.log, bench)
    process.take_over()
    await end(bench, "first")
    await process.read()
    await end(bench, *"abcdefghi")
    await process.read()
    assert [len(jobs) for jobs in settled(bench)] == [1, FULL, FULL]
    await process.tick(PACE_SECONDS / 2)
    assert len(settled(bench)) == 3
    await process.tick(PACE_SECONDS)
    assert settled(bench)[3:] == [ids("i")]


async def test_after_a_refusal_full_settlements_wait_too(bench: Bench) -> None:
    """A log that is out of reach is not asked at each event."""
    process = Process(bench.log, bench)
    process.take_over()
    process.is_refused = True
    await end(bench, *"abcdefghi")
    for _ in range(5):
        await process.read()
        await process.tick(AGAIN_SECONDS / 10)
    assert len(process.sent) == 3
    process.is_refused = False
    await process.tick(AGAIN_SECONDS)
    assert [len(jobs) for jobs in settled(bench)] == [FULL, FULL, 1]


async def test_a_refused_settlement_is_sent_again_with_all_before_what_ended_since(bench: Bench) -> None:
    """After a pause; no job is left out, or settled before an earlier one."""
    process = Process(bench.log, bench)
    process.take_over()
    first = await end(bench, "a", "b")
    process.is_refused = True
    await process.read()
    await process.tick()
    second = await end(bench, "c")
    process.is_refused = False
    await process.read()
    await process.tick(AGAIN_SECONDS / 2)
    assert process.sent == [first]
    await process.tick(AGAIN_SECONDS)
    assert process.sent[1:] == [first + second]
    assert settled(bench) == [ids("a", "b", "c")]


@pytest.mark.parametrize("settled_before", [0, 1, 3])
async def test_a_process_that_takes_over_goes_on_where_the_log_is(bench: Bench, settled_before: int) -> None:
    """Jobs that ended before its stored position and are not settled come first, then those that it reads."""
    first = Process(bench.log, bench)
    first.take_over()
    await end(bench, *"abcdef"[:settled_before])
    await first.read()
    await first.tick()
    await end(bench, *"abcdef"[settled_before:])
    second = Process(bench.log, bench)
    second.take_over()
    await end(bench, "g", "h", "i", "j")
    await second.read(ticks=False)
    # A full list, whose jobs are not the next ones.
    assert second.sent == []
    for _ in range(3):
        await second.tick()
    jobs = [job_id for one in settled(bench) for job_id in one]
    assert jobs == ids(*"abcdefghij")
    assert await held(bench) == 0


async def test_one_that_is_behind_settles_nothing_twice(bench: Bench) -> None:
    """Its stored position is before jobs that another process has settled."""
    early = bench.log.head()
    first = Process(bench.log, bench)
    first.take_over()
    await end(bench, "a", "b")
    await first.read()
    await first.tick()
    second = Process(bench.log, bench)
    second.take_over(early)
    await end(bench, "c")
    for _ in range(50):
        await second.read(1)
        await second.tick()
    assert settled(bench) == [ids("a", "b"), ids("c")]


async def test_two_settlers_at_once_pay_each_job_once(bench: Bench) -> None:
    """A leader that does not know yet that it is none sends what the next one sends."""
    processes = [Process(bench.log, bench) for _ in range(2)]
    for process in processes:
        process.take_over()
    for keys in ("ab", "c", "defgh", "i"):
        await end(bench, *keys)
        for process in processes:
            await process.read()
            await process.tick()
    assert [job_id for one in settled(bench) for job_id in one] == ids(*"abcdefghi")
    assert await held(bench) == 0


async def test_one_that_stands_by_forgets_its_list(bench: Bench) -> None:
    """What it knew may be settled by then: it reads the log again."""
    process = Process(bench.log, bench)
    process.take_over()
    await end(bench, "a")
    await process.read(ticks=False)
    process.settler.stand_by()
    await process.tick()
    assert process.sent == []
    process.take_over()
    await process.tick()
    assert settled(bench) == [ids("a")]


async def test_jobs_without_a_hold_are_not_sent_by_a_process_that_takes_over(bench: Bench) -> None:
    """A log may have a million jobs from before accounts were kept."""
    free = Bench(bench.log)
    await free.bus.start()
    await end(free, "free")
    await free.bus.stop()
    ends = await end(bench, "a")
    process = Process(bench.log, bench)
    process.take_over()
    await process.tick()
    assert process.sent == [ends]
    assert settled(bench) == [ids("a")]


# --- work on cancelled jobs ---------------------------------------------------------------------------------
WAIT = 30_000


@pytest.fixture
async def paying(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Where work on cancelled jobs is paid."""
    monkeypatch.setattr(module, "MAX_SETTLED", FULL)
    monkeypatch.setattr(module, "READ_EVENTS", 3)
    bench = Bench(WatchedLog(), terms=Terms(partial_millis=WAIT))
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec(max_units="20")), by=SYSTEM)
    await bench.send(AccountDeposit(party="alice", amount=10**9, business_id="d1"), by=ADMIN)
    yield bench
    await bench.bus.stop()


async def stopped(bench: Bench, *keys: str) -> None:
    """Submit jobs, and cancel them at work."""
    for key in keys:
        job_id = job_stream("alice", key)
        await bench.send(submit(key))
        claim = started(at=bench.clock.millis, job_id=job_id, miner_key=KEY.key_id)
        bench.log.append([NewEvent(job_id, 2, claim, METADATA)])
        bench.clock.millis += 100
        await canceled(bench, key)


async def bill(bench: Bench, key: str) -> list[str]:
    """The miner's statement of 100 milliseconds of work."""
    job_id = job_stream("alice", key)
    [submitted, *_] = bench.log.load([job_id])[job_id]
    named: dict[str, Any] = {"attempt": 1, "miner_id": "rig", "session_id": SESSION}
    statement = {
        "version": "1 partial",
        "job_id": str(job_id),
        **named,
        "service": a_spec().id,
        "payload_digest": cast("Any", submitted.event).payload_digest,
        "started_at_ms": 1,
        "stopped_at_ms": 101,
    }
    signed = sign_statement(KEY, statement)
    return codes(await bench.send(AccountBill(job_id=job_id, **named, statement=signed), by=RIG))


def ends(bench: Bench) -> list[tuple[str, UUID]]:
    """The ends of kept holds, in the order of the log."""
    events = [recorded.event for recorded in bench.log.read(0, 1000)]
    kinds = (PaymentBilled, PaymentLapsed)
    return [(event.topic.split(".")[1], event.job_id) for event in events if isinstance(event, kinds)]


async def test_a_kept_hold_ends_when_it_is_due_and_not_before(paying: Bench) -> None:
    """In arrays of a bounded size; it is sent once."""
    process = Process(paying.log, paying)
    process.take_over()
    await stopped(paying, *"abcdef")
    await process.read()
    for _ in range(3):
        await process.tick()
        await process.read()
    until = [*kept(paying.log, paying.log.head()).values()]
    assert (len(until), set(until)) == (6, {paying.clock.millis + WAIT})
    hold = await held(paying)
    assert hold == 6 * 40_000
    paying.clock.millis += WAIT - 1
    await process.tick()
    assert process.lapsed == []
    paying.clock.millis += 1
    for _ in range(5):
        await process.tick()
        await process.read()
    assert process.lapsed == [ids(*"abcd"), ids("e", "f")]
    assert ends(paying) == [("lapsed", job_id) for job_id in ids(*"abcdef")]
    assert await held(paying) == 0


async def test_a_paid_hold_is_not_sent(paying: Bench) -> None:
    """Its statement came: the log tells the settler. Nor is one of a job that nobody worked on."""
    process = Process(paying.log, paying)
    process.take_over()
    await stopped(paying, "a", "b")
    await end(paying, "queued")
    await process.read()
    await process.tick()
    await process.read()
    assert await bill(paying, "a") == ["accepted"]
    await process.read()
    paying.clock.millis += WAIT
    await process.tick()
    assert process.lapsed == [ids("b")]
    assert ends(paying) == [("billed", *ids("a")), ("lapsed", *ids("b"))]
    assert await held(paying) == 0


async def test_a_statement_that_the_settler_did_not_read_yet_wins(paying: Bench) -> None:
    """Its command comes too late, has no effect, and is not sent again."""
    process = Process(paying.log, paying)
    process.take_over()
    await stopped(paying, "a")
    await process.read()
    await process.tick()
    await process.read()
    assert await bill(paying, "a") == ["accepted"]
    paying.clock.millis += WAIT
    for _ in range(3):
        await process.tick()
    assert process.lapsed == [ids("a")]
    assert ends(paying) == [("billed", *ids("a"))]


async def test_a_refused_end_is_sent_again_after_a_pause(paying: Bench) -> None:
    process = Process(paying.log, paying)
    process.take_over()
    await stopped(paying, "a")
    await process.read()
    await process.tick()
    await process.read()
    paying.clock.millis += WAIT
    process.is_refused = True
    await process.tick()
    process.is_refused = False
    await process.tick(AGAIN_SECONDS / 2)
    assert (process.lapsed, ends(paying)) == ([ids("a")], [])
    await process.tick(AGAIN_SECONDS)
    assert (process.lapsed, ends(paying)) == ([ids("a")] * 2, [("lapsed", *ids("a"))])


@pytest.mark.parametrize("projected", ["nothing", "the settlement", "all"])
async def test_a_process_that_takes_over_knows_kept_jobs(paying: Bench, projected: str) -> None:
    """By the table as far as it is, then by the log: also the ends that the table does not have."""
    start = paying.log.head()
    first = Process(paying.log, paying)
    first.take_over()
    await stopped(paying, "a", "b")
    await first.read()
    await first.tick()
    positions = {"nothing": start, "the settlement": paying.log.head()}
    assert await bill(paying, "a") == ["accepted"]
    await stopped(paying, "c")
    await first.read()
    await first.tick()
    first.settler.stand_by()

    second = Process(paying.log, paying)
    second.take_over(projected=positions.get(projected, paying.log.head()))
    paying.clock.millis += WAIT
    await first.tick()
    for _ in range(3):
        await second.tick()
        await second.read()
    assert first.lapsed == []
    assert second.lapsed == [ids("b", "c")]
    assert ends(paying) == [("billed", *ids("a")), *(("lapsed", job_id) for job_id in ids("b", "c"))]
    assert await held(paying) == 0


async def test_a_process_that_is_behind_reads_of_kept_jobs(paying: Bench) -> None:
    """Its own position is before their settlement, and the table is ahead of it."""
    start = paying.log.head()
    first = Process(paying.log, paying)
    first.take_over()
    await stopped(paying, "a", "b")
    await first.read()
    await first.tick()
    assert await bill(paying, "a") == ["accepted"]
    second = Process(paying.log, paying)
    second.take_over(start)
    paying.clock.millis += WAIT
    for _ in range(20):
        await second.read(1)
    await second.tick()
    assert ends(paying) == [("billed", *ids("a")), ("lapsed", *ids("b"))]
    assert await held(paying) == 0
