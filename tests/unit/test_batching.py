"""What waits goes in batches: in order, two at once at most, never two that have to do with each other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast
from uuid import UUID

import pytest

from coordinator.application.commands.batching import MAX_BATCH, AnyPrepared, Batch, CommandBatches
from coordinator.application.commands.handler import Prepared
from coordinator.application.ports import Intent
from coordinator.domain.errors import Code
from coordinator.domain.job import JobExpire
from coordinator.domain.messages import SYSTEM
from coordinator.wire.answers import Accepted, Answer, Refused
from tests.harness.cases import every
from tests.harness.length import examples

STOPPED = Refused(Code.UNAVAILABLE, "stopped")
PATIENCE = 20.0


def command(own: int, *reads: int, writes: tuple[int, ...] = ()) -> AnyPrepared:
    """A command with these streams: its own, others that it looks at, others that it may append to."""
    stream, handler = UUID(int=own), cast("Any", None)
    return Prepared(
        Intent(JobExpire(job_id=stream), SYSTEM), handler, stream, None, _uuids(reads), _uuids(writes)
    )


def _uuids(numbers: tuple[int, ...]) -> tuple[UUID, ...]:
    return tuple(UUID(int=number) for number in numbers)


class Line:
    """Batches that a test lets go on, one by one; a command is answered with its stream's number."""

    def __init__(self) -> None:
        self.batches = CommandBatches(self._process, STOPPED)
        self.begun: list[list[int]] = []
        self.running: list[int] = []
        """The numbers of the batches that have begun and are not answered."""
        self._story: list[tuple[str, int]] = []
        """The commands that began and ended, in order."""
        self._let_go: list[asyncio.Event] = []
        self._moved = asyncio.Event()

    async def _process(self, batch: Batch) -> Sequence[Answer]:
        numbers, batch_number = [prepared.stream.int for prepared in batch.commands], len(self.begun)
        self.begun.append(numbers)
        self.running.append(batch_number)
        self._story += [("begun", number) for number in numbers]
        self._let_go.append(asyncio.Event())
        self._moved.set()
        await self._let_go[batch_number].wait()
        self.running.remove(batch_number)
        self._story += [("ended", number) for number in numbers]
        return [Accepted(prepared.stream.int, {}) for prepared in batch.commands]

    def submit(self, *commands: AnyPrepared) -> asyncio.Task[list[Answer]]:
        return asyncio.create_task(self.batches.submit(commands))

    def let_go(self, number: int) -> None:
        self._let_go[number].set()

    def is_before(self, first: int, second: int) -> bool:
        """Whether the first command ended before the second one began, or is before it in one batch."""
        for numbers in self.begun:
            if first in numbers and second in numbers:
                return numbers.index(first) < numbers.index(second)
        return self._story.index(("ended", first)) < self._story.index(("begun", second))

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.begun) < count:
                self._moved.clear()
                await self._moved.wait()

    async def settle(self) -> None:
        """By now everything that does not have to wait has been done."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    await line.batches.start()
    yield line
    async with asyncio.timeout(PATIENCE):
        await line.batches.stop()


def positions(answers: Sequence[Answer]) -> list[int]:
    return [answer.position for answer in answers if isinstance(answer, Accepted)]


async def test_two_are_under_way_and_what_comes_then_goes_together(line: Line) -> None:
    """The third batch is whatever gathered until one of the first two was done; each call has its answers."""
    calls = []
    for number in (1, 2, 3, 4, 5):
        calls.append(line.submit(command(number)))
        await line.settle()
    assert [[1], [2]] == line.begun
    assert 3 == len(line.batches)
    line.let_go(0)
    await line.until_begun(3)
    assert [[1], [2], [3, 4, 5]] == line.begun
    line.let_go(1)
    line.let_go(2)
    async with asyncio.timeout(PATIENCE):
        assert [[1], [2], [3], [4], [5]] == [positions(await call) for call in calls]


async def test_a_call_of_many_is_answered_whole_and_in_order(line: Line) -> None:
    """More than a batch holds go in several; the call gets all its answers at the end, in its own order."""
    numbers = list(range(1, MAX_BATCH + 8))
    call = line.submit(*map(command, numbers))
    await line.until_begun(2)
    assert [MAX_BATCH, 7] == [len(batch) for batch in line.begun]
    line.let_go(1)
    await line.settle()
    assert not call.done()
    line.let_go(0)
    assert numbers == positions(await call)


@pytest.mark.parametrize(
    ("ahead", "behind", "waits"),
    [
        (command(1, 9), command(2, 9), False),  # both only read it: a service that many jobs are for
        (command(1), command(1), True),
        (command(1), command(2, 1), True),
        (command(1, 2), command(2), True),
        (command(1, writes=(9,)), command(2, 9), True),
        (command(1, 9), command(2, writes=(9,)), True),
        (command(1, writes=(8, 9)), command(2, writes=(9,)), True),
    ],
)
async def test_what_may_be_written_ahead_is_waited_for(
    line: Line, ahead: AnyPrepared, behind: AnyPrepared, waits: bool
) -> None:
    """Reads of one stream go side by side; a write of it waits, and is waited for."""
    first = line.submit(ahead)
    await line.until_begun(1)
    second = line.submit(behind)
    await line.settle()
    assert (1 if waits else 2) == len(line.begun)
    line.let_go(0)
    await line.until_begun(2)
    line.let_go(1)
    assert [1] == positions(await first)
    assert [behind.stream.int] == positions(await second)


async def test_a_caller_who_is_gone_keeps_nobody_else_waiting(line: Line) -> None:
    """A cancelled call is processed all the same, and who is in the same batch is answered."""
    first = line.submit(command(1))
    await line.until_begun(1)
    gone, other = line.submit(command(2)), line.submit(command(3))
    await line.until_begun(2)
    assert [2, 3] == line.begun[1]
    gone.cancel()
    line.let_go(0)
    line.let_go(1)
    assert [[1], [3]] == [positions(await first), positions(await other)]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_stop_that_is_given_up_or_asked_for_twice_ends_after_the_last_answer(line: Line) -> None:
    """Every stop returns when all are answered; one whose caller gives up does not cut off what waits."""
    calls = []
    for _ in range(3):  # one under way, and two that wait for it
        calls.append(line.submit(command(1)))
        await line.settle()
    stops = [asyncio.create_task(line.batches.stop()) for _ in range(3)]
    await line.settle()
    stops[0].cancel()
    await line.settle()
    assert [True, False, False] == [stop.done() for stop in stops]
    assert [STOPPED] == await line.batches.submit([command(2)])
    for number in range(2):
        await line.until_begun(number + 1)
        assert not any(stop.done() for stop in stops[1:])
        line.let_go(number)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*stops[1:])
    assert [True] * 3 == [call.done() for call in calls]
    assert [[1]] * 3 == [positions(await call) for call in calls]
    assert [[1], [1, 1]] == line.begun


async def test_what_is_cancelled_is_answered_as_stopped() -> None:
    """When the loop ends under a batch, who asked is told to send it again rather than left waiting."""
    begun: asyncio.Queue[asyncio.Task[None] | None] = asyncio.Queue()

    async def process(batch: Batch) -> Sequence[Answer]:
        begun.put_nowait(asyncio.current_task())
        await asyncio.Event().wait()
        return []

    line = CommandBatches(process, STOPPED)
    await line.start()
    call = asyncio.create_task(line.submit([command(1), command(2)]))
    async with asyncio.timeout(PATIENCE):
        task = await begun.get()
        assert task is not None
        task.cancel()
        assert [STOPPED, STOPPED] == await call
        await line.stop()


async def test_a_command_that_waits_is_overtaken_by_those_that_share_nothing(line: Line) -> None:
    """Not by one that shares a stream with it, nor by one that waits for such a one."""
    calls = [line.submit(command(1, writes=(9,)))]
    await line.until_begun(1)
    waiting = [command(2, writes=(9,)), command(3), command(4, 2), command(5, 4), command(6, writes=(3,))]
    calls.append(line.submit(*waiting))
    await line.until_begun(2)
    assert [[1], [3, 6]] == line.begun
    assert 3 == len(line.batches)
    line.let_go(0)
    await line.until_begun(3)
    assert [2, 4, 5] == line.begun[2]
    line.let_go(1)
    line.let_go(2)
    assert [1] == positions(await calls[0])
    assert [2, 3, 4, 5, 6] == positions(await calls[1])


async def test_a_command_that_waits_is_in_the_next_batch_however_many_come_behind(line: Line) -> None:
    """It waits for the batch ahead of it alone: those that overtake it share no stream with it."""
    first = line.submit(command(1))
    await line.until_begun(1)
    second = line.submit(command(1), command(2))
    await line.until_begun(2)
    others = [line.submit(*(command(n, *((1,) if n % 2 else ())) for n in range(10, 10 + 3 * MAX_BATCH)))]
    await line.settle()
    line.let_go(1)
    await line.until_begun(3)
    assert all(number % 2 == 0 for number in line.begun[2])
    line.let_go(0)
    await line.until_begun(4)
    assert 1 == line.begun[3][0]
    for number in range(2, 6):
        await line.until_begun(number + 1)
        line.let_go(number)
        if sum(map(len, line.begun)) == 3 + 3 * MAX_BATCH:
            break
    await line.settle()
    for number in range(len(line.begun)):
        line.let_go(number)
    async with asyncio.timeout(PATIENCE):
        assert [1] == positions(await first)
        assert [1, 2] == positions(await second)
        assert list(range(10, 10 + 3 * MAX_BATCH)) == positions(await others[0])


@every("seed", range(examples(400)))
async def test_whatever_overtakes_commands_of_a_stream_keep_their_order(seed: int) -> None:
    """Any commands that arrive at any time: of two of which one writes a stream of the other, the first one
    is answered before the second one begins, or they are in one batch in their order. All are answered."""
    chance = random.Random(seed)
    line = Line()
    await line.batches.start()
    sent: list[AnyPrepared] = []
    calls = []
    released = 0
    for _ in range(40):
        if chance.random() < 0.6:
            some: list[AnyPrepared] = []
            for _ in range(chance.choice((1, 1, 2, 5))):
                streams = chance.sample(range(1, 9), 3)
                writes, reads = streams[: chance.choice((0, 0, 1))], streams[1 : chance.choice((1, 2))]
                # Its own stream is a number by which it is known, and no other command's.
                some.append(command(100 + len(sent) + len(some), *reads, writes=tuple(writes)))
            sent += some
            calls.append(line.submit(*some))
        elif released < len(line.begun):
            # Of two that run, either may be the first one to end.
            number = chance.choice(line.running)
            line.let_go(number)
            released += 1
        await line.settle()
    while line.running or len(line.batches):
        for number in line.running:
            line.let_go(number)
        await line.settle()
    async with asyncio.timeout(PATIENCE):
        answers = [positions(await call) for call in calls]
        await line.batches.stop()
    assert [prepared.stream.int for prepared in sent] == [number for call in answers for number in call]
    for place, first in enumerate(sent):
        for second in sent[place + 1 :]:
            if _conflict(first, second):
                assert line.is_before(first.stream.int, second.stream.int)


def _conflict(one: AnyPrepared, other: AnyPrepared) -> bool:
    return any(
        set(a.writes) & {*b.writes, *b.reads, b.stream} or a.stream in b.reads
        for a, b in ((one, other), (other, one))
    )
