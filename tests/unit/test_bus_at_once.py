"""Two batches at once, and another process beside them: as if one command came after the other."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from coordinator.application.ports import Appended, LogUnavailable, NewEvent, StoredPayload
from coordinator.domain.errors import Code
from coordinator.domain.job import JobCancel, job_stream
from coordinator.domain.messages import SYSTEM, Command
from coordinator.domain.service import ServiceRegister
from coordinator.wire.answers import Accepted, Answer
from tests.harness.bus import Bench, WatchedLog, codes, submit
from tests.harness.deciding import a_spec

SEEDS = 12
PATIENCE = 20.0


class MoodyLog(WatchedLog):
    """Slow at times, out of reach at times: before an append, or after it took place."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.failing = 0.0

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        self.pause()
        if self.random.random() < self.failing:
            raise LogUnavailable("not now")
        appended = super().append(events, payloads)
        if self.random.random() < self.failing:
            raise LogUnavailable("the answer was lost")
        self.pause()
        return appended

    def load(self, streams: Any) -> Any:
        self.pause()
        return super().load(streams)

    def pause(self) -> None:
        time.sleep(self.random.choice((0, 0, 0.001, 0.003)))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_is_at_once_each_job_has_one_history(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes submit, repeat and cancel the same jobs at once: nothing twice, nothing lost."""
    monkeypatch.setattr("coordinator.application.commands.batching.MAX_BATCH", 3)
    log, chance = MoodyLog(seed), random.Random(seed)
    benches = [Bench(log), Bench(log)]
    for bench in benches:
        await bench.bus.start()
    await benches[0].send(ServiceRegister(spec=a_spec()), by=SYSTEM)
    log.failing = chance.choice((0.0, 0.1))
    told: list[Answer] = []
    known: list[Any] = []

    async def client(number: int) -> None:
        for _ in range(8):
            if known and chance.random() < 0.4:
                commands: list[Command] = [JobCancel(job_id=chance.choice(known)) for _ in range(2)]
            else:
                commands = [submit(str(chance.randint(0, 15))) for _ in range(chance.randint(1, 4))]
            for answer in await chance.choice(benches).send(*commands):
                told.append(answer)
                if isinstance(answer, Accepted):
                    known.append(answer.body["job_id"])

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(client(number) for number in range(6)))
    log.failing = 0.0
    for bench in benches:
        await bench.bus.stop()

    events = log.read(0, 10_000)
    topics: dict[str, list[str]] = {}
    for event in events:
        topics.setdefault(event.key, []).append(event.event.topic)
    jobs = {key: found for key, found in topics.items() if found[0].startswith("job.")}
    assert all(
        found in (["job.submitted.v1"], ["job.submitted.v1", "job.canceled.v1"]) for found in jobs.values()
    )
    where = {event.position: event.key for event in events}
    for answer in told:
        if isinstance(answer, Accepted):
            assert where[answer.position] == answer.body["job_id"]
        else:
            assert answer.code in (Code.UNAVAILABLE, Code.CONFLICT_STATE)
    for bench in benches:
        positions = [event.position for appended in bench.committed for event in appended.events]
        assert sorted(positions) == positions
        assert all(a.previous == a.events[0].position - 1 for a in bench.committed)
    for key, found in jobs.items():
        states = [type(await bench.bus.state(UUID(key))).__name__ for bench in benches]
        assert states == [("Queued", "Canceled")[len(found) - 1]] * 2


class HeldLog(WatchedLog):
    """Appends wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self.begun = threading.Semaphore(0)

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        self.begun.release()
        assert self.go_on.wait(PATIENCE)
        return super().append(events, payloads)


@pytest.fixture
async def held() -> AsyncIterator[tuple[Bench, HeldLog]]:
    log = HeldLog()
    bench = Bench(log)
    await bench.bus.start()
    await bench.send(ServiceRegister(spec=a_spec()), by=SYSTEM)
    assert log.begun.acquire(timeout=PATIENCE)
    log.go_on.clear()
    yield bench, log
    log.go_on.set()
    await bench.bus.stop()


async def test_what_the_batch_ahead_may_change_is_decided_behind_it(held: tuple[Bench, HeldLog]) -> None:
    """A cancel that comes while its job is written finds the job, without a conflict and without a look."""
    bench, log = held
    loads = log.loads
    submitting = asyncio.create_task(bench.send(submit("job")))
    assert await asyncio.to_thread(log.begun.acquire, timeout=PATIENCE)
    canceling = asyncio.create_task(bench.send(JobCancel(job_id=job_stream("alice", "job"))))
    for _ in range(20):  # by now it is decided, if it is not held back
        await asyncio.sleep(0)
    log.go_on.set()
    async with asyncio.timeout(PATIENCE):
        assert codes([*await submitting, *await canceling]) == ["accepted"] * 2
    assert (bench.bus.stats.conflicts, log.loads - loads) == (0, 0)


async def test_a_stop_finishes_the_batches_under_way(held: tuple[Bench, HeldLog]) -> None:
    """Written, decided or waiting: each command is answered, in the order of the line."""
    bench, log = held
    sending = [asyncio.create_task(bench.send(submit("first")))]
    assert await asyncio.to_thread(log.begun.acquire, timeout=PATIENCE)
    for number in range(3):
        sending.append(asyncio.create_task(bench.send(submit(f"later {number}"))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    stopping = asyncio.create_task(bench.bus.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    log.go_on.set()
    async with asyncio.timeout(PATIENCE):
        await stopping
        answers = [answer for task in sending for answer in await task]
    positions = [answer.position for answer in answers if isinstance(answer, Accepted)]
    assert positions == [3, 4, 5, 6]
    assert codes(await bench.send(submit("too late"))) == ["UNAVAILABLE"]
