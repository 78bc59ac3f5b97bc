"""What waits, in batches: whoever waits together is processed together, at most two batches at a time.

At one command this adds no wait; at a thousand, all that gathered while others were under way go as one. Two
batches are at once only if they have nothing to do with each other.
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

MAX_BATCH = 200  # commands a transaction; more only makes the ones before wait longer
MAX_AT_ONCE = 2  # batches: while one is written, the next is decided


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Commands that are decided and appended together, and the streams that they have to do with."""

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

    def meets(self, other: Batch) -> bool:
        """Whether one of them may write what the other one reads or writes."""
        return not (
            self.writes.isdisjoint(other.writes)
            and self.writes.isdisjoint(other.reads)
            and self.reads.isdisjoint(other.writes)
        )


@dataclass(slots=True, eq=False)
class _Ticket:
    """One call of `submit`: its answers are due together."""

    answers: list[Answer | None]
    missing: int
    done: asyncio.Future[None]


class _Waiting(NamedTuple):
    prepared: AnyPrepared
    ticket: _Ticket
    place: int


class Batches:
    """The queue before `process`, which never raises but when it is cancelled. Used on the event loop."""

    def __init__(self, process: Callable[[Batch], Awaitable[Sequence[Answer]]], stopped: Answer) -> None:
        """`process(batch)`: one answer a command, in order. `stopped`: what is answered once this stops."""
        self._process = process
        self._stopped = stopped
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def __len__(self) -> int:
        """How many commands wait."""
        return len(self._waiting)

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="command-batches")

    async def stop(self) -> None:
        """Finish what waits, then stop. May be called twice (each returns at the end), or without a start."""
        if self._task is not None:
            self._stopping = True
            self._wake.set()
            await asyncio.shield(self._task)  # whoever gives up waiting for the end does not hasten it

    async def submit(self, commands: Collection[AnyPrepared]) -> list[Answer]:
        """The answers to these commands, in their order."""
        if not commands:
            return []
        if self._stopping:
            return [self._stopped] * len(commands)
        ticket = _Ticket([None] * len(commands), len(commands), asyncio.get_running_loop().create_future())
        self._waiting.extend([_Waiting(p, ticket, i) for i, p in enumerate(commands)])
        self._wake.set()
        await ticket.done
        return [answer for answer in ticket.answers if answer is not None]

    async def _run(self) -> None:
        ahead: dict[asyncio.Task[None], Batch] = {}
        try:
            while self._waiting or not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    while len(ahead) >= MAX_AT_ONCE:
                        await _one_of(ahead)
                    waiting = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
                    batch = Batch.of([w.prepared for w in waiting])
                    while any(batch.meets(other) for other in ahead.values()):
                        await _one_of(ahead)
                    ahead[asyncio.create_task(self._answer(waiting, batch))] = batch
        finally:
            while ahead:
                await _one_of(ahead)

    async def _answer(self, waiting: Sequence[_Waiting], batch: Batch) -> None:
        try:
            _hand_out(waiting, await self._process(batch))
        except asyncio.CancelledError:
            _hand_out(waiting, [self._stopped] * len(waiting))
            raise


async def _one_of(tasks: dict[asyncio.Task[None], Batch]) -> None:
    """Wait until at least one is done, and take it out."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        del tasks[task]


def _hand_out(waiting: Iterable[_Waiting], answers: Iterable[Answer]) -> None:
    for (_, ticket, place), answer in zip(waiting, answers, strict=True):
        ticket.answers[place] = answer
        ticket.missing -= 1
        if not ticket.missing and not ticket.done.done():
            ticket.done.set_result(None)
