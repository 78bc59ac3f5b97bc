"""Gathers calls while an earlier request is under way, and sends them together. A single call never waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from coordinator.wire.limits import MAX_ARRAY_LENGTH, MAX_BODY_BYTES

BODY_BYTES = MAX_BODY_BYTES - 4096
"""What the elements of an array may have together; the rest is for its other members."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _Waiting(NamedTuple, Generic[Item, Outcome]):
    item: Item
    size: int
    outcome: asyncio.Future[Outcome]


class Gathering(Generic[Item, Outcome]):
    """`send` gets the items of one request and returns an outcome for each: a value, or an exception."""

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]) -> None:
        self._send = send
        self._waiting: deque[_Waiting[Item, Outcome]] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def call(self, item: Item, size: int) -> Outcome:
        """The outcome of this item, which has `size` bytes as JSON. Raises its exception."""
        waiting = _Waiting[Item, Outcome](item, size, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._sender is None:
            self._sender = asyncio.create_task(self._run())
        return await waiting.outcome

    async def close(self) -> None:
        """Give up: calls without an outcome are cancelled."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _run(self) -> None:
        group: Sequence[_Waiting[Item, Outcome]] = ()
        try:
            while group := self._group():
                outcomes: Sequence[Outcome | Exception]
                try:
                    outcomes = await self._send([waiting.item for waiting in group])
                except Exception as error:
                    outcomes = [error] * len(group)
                for waiting, outcome in zip(group, outcomes, strict=True):
                    if waiting.outcome.done():
                        continue  # its caller is gone
                    if isinstance(outcome, Exception):
                        waiting.outcome.set_exception(outcome)
                    else:
                        waiting.outcome.set_result(outcome)
        except asyncio.CancelledError:
            for waiting in (*group, *self._waiting):
                waiting.outcome.cancel()
            self._waiting.clear()
            raise
        finally:
            self._sender = None

    def _group(self) -> list[_Waiting[Item, Outcome]]:
        group: list[_Waiting[Item, Outcome]] = []
        size = 0
        while self._waiting and len(group) < MAX_ARRAY_LENGTH:
            size += self._waiting[0].size + 1
            if group and size > BODY_BYTES:
                break
            waiting = self._waiting.popleft()
            if not waiting.outcome.done():
                group.append(waiting)
        return group
