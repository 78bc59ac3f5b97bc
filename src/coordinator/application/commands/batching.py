"""Batches of waiting commands; at most two batches are processed at the same time.

A single command does not wait. Under load, the commands that arrive while others are processed form the next
batch. Two batches run at the same time only if neither writes a stream of the other: a command that has to
wait for a batch is overtaken by those behind it that have not, and that share no stream with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from coordinator.application.commands.handler import Prepared
from coordinator.wire.answers import Answer

AnyPrepared = Prepared[Any]

MAX_BATCH = 200  # commands per transaction; a larger batch only makes its first commands wait longer
MAX_HELD_UP = 400  # waiting commands that others may overtake
MAX_AT_ONCE = 2  # batches: the next one is decided while one is written


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Commands that are decided and appended together, and the streams that they read and write."""

    commands: Sequence[AnyPrepared]
    reads: frozenset[UUID]
    writes: frozenset[UUID]

    @classmethod
    def of(cls, commands: Sequence[AnyPrepared]) -> Batch:
        reads: set[UUID] = set()
        writes: set[UUID] = set()
        for prepared in commands:
            reads.update(prepared.reads)
            writes.update(prepared.writes)
            writes.add(prepared.stream)
        return cls(commands, frozenset(reads), frozenset(writes))

    @property
    def streams(self) -> frozenset[UUID]:
        return self.reads | self.writes

    def holds_up(self, reading: Collection[UUID], writing: Collection[UUID]) -> bool:
        """Whether a command that reads and writes these streams has to wait for it."""
        return not (
            self.writes.isdisjoint(writing)
            and self.writes.isdisjoint(reading)
            and self.reads.isdisjoint(writing)
        )


@dataclass(slots=True, eq=False)
class _Submission:
    """One call of `submit`, which returns all its answers together."""

    answers: list[Answer | None]
    missing: int
    done: asyncio.Future[None]


class _Waiting(NamedTuple):
    prepared: AnyPrepared
    submission: _Submission
    place: int


class CommandBatches:
    """The queue in front of `process`, which raises only if cancelled. Used on the event loop."""

    def __init__(self, process: Callable[[Batch], Awaitable[Sequence[Answer]]], stopped: Answer) -> None:
        """`process(batch)`: one answer per command, in order. `stopped`: the answer after the stop."""
        self._process = process
        self._stopped = stopped
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def __len__(self) -> int:
        """The number of waiting commands."""
        return len(self._waiting)

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="command-batches")

    async def stop(self) -> None:
        """Process the waiting commands, then stop. May be called twice (both wait), or without a start."""
        if self._task is not None:
            self._stopping = True
            self._wake.set()
            await asyncio.shield(self._task)  # a cancelled caller must not cancel the processing

    async def submit(self, commands: Collection[AnyPrepared]) -> list[Answer]:
        """The answers to these commands, in their order."""
        if not commands:
            return []
        if self._stopping:
            return [self._stopped] * len(commands)
        submission = _Submission(
            [None] * len(commands), len(commands), asyncio.get_running_loop().create_future()
        )
        self._waiting.extend([_Waiting(p, submission, i) for i, p in enumerate(commands)])
        self._wake.set()
        await submission.done
        return [answer for answer in submission.answers if answer is not None]

    async def _run(self) -> None:
        running: dict[asyncio.Task[None], Batch] = {}
        try:
            while self._waiting or not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    _remove_done(running)
                    while len(running) >= MAX_AT_ONCE:
                        await _end_of_one(running)
                    waiting = self._next(running.values())
                    if not waiting:
                        await _end_of_one(running)
                        continue
                    batch = Batch.of([w.prepared for w in waiting])
                    running[asyncio.create_task(self._answer(waiting, batch))] = batch
        finally:
            while running:
                await _end_of_one(running)

    def _next(self, running: Collection[Batch]) -> list[_Waiting]:
        """The first commands that no running batch holds up, nor a waiting command before them."""
        if not running:
            return [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        taken: list[_Waiting] = []
        held_up: list[_Waiting] = []
        writes: set[UUID] = set()
        reads: set[UUID] = set()
        while self._waiting and len(taken) < MAX_BATCH and len(held_up) < MAX_HELD_UP:
            one = self._waiting.popleft()
            reading, writing = one.prepared.reads, (one.prepared.stream, *one.prepared.writes)
            if any(batch.holds_up(reading, writing) for batch in running) or (
                held_up
                and not (
                    writes.isdisjoint(reading) and reads.isdisjoint(writing) and writes.isdisjoint(writing)
                )
            ):
                held_up.append(one)
                writes.update(writing)
                reads.update(reading)
            else:
                taken.append(one)
        self._waiting.extendleft(reversed(held_up))
        return taken

    async def _answer(self, waiting: Sequence[_Waiting], batch: Batch) -> None:
        try:
            _deliver(waiting, await self._process(batch))
        except asyncio.CancelledError:
            _deliver(waiting, [self._stopped] * len(waiting))
            raise


async def _end_of_one(tasks: dict[asyncio.Task[None], Batch]) -> None:
    """Wait until at least one task is done, and remove the done ones."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    _remove_done(tasks)


def _remove_done(tasks: dict[asyncio.Task[None], Batch]) -> None:
    for task in [task for task in tasks if task.done()]:
        del tasks[task]


def _deliver(waiting: Iterable[_Waiting], answers: Iterable[Answer]) -> None:
    for (_, submission, place), answer in zip(waiting, answers, strict=True):
        submission.answers[place] = answer
        submission.missing -= 1
        if not submission.missing and not submission.done.done():
            submission.done.set_result(None)
