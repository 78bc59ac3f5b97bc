"""Deadlines of requests that wait, with one timer of the event loop for all of them."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Any, Final

TICK_SECONDS: Final = 0.05
"""A wait ends up to so much later than it should: all that end within a tick end together."""


class Deadlines:
    """Ends futures at their deadlines. Used on the event loop."""

    def __init__(self, end: Callable[[asyncio.Future[Any]], None]) -> None:
        """`end` is called with each future whose time is up."""
        self._end = end
        self._ticks: dict[int, dict[asyncio.Future[Any], None]] = {}
        """The futures, by the tick in which they end; an emptied tick stays until its time."""
        self._order: list[int] = []
        """The ticks, as a heap."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def add(self, future: asyncio.Future[Any], seconds: float) -> int:
        """End it in so many seconds; returns its tick."""
        tick = math.ceil((asyncio.get_running_loop().time() + seconds) / TICK_SECONDS)
        futures = self._ticks.get(tick)
        if futures is None:
            futures = self._ticks[tick] = {}
            heapq.heappush(self._order, tick)
        futures[future] = None
        if self._timer is None or tick < self._timer_tick:
            self._set_timer()
        return tick

    def remove(self, future: asyncio.Future[Any], tick: int) -> None:
        """Do not end it, if it has not been ended yet."""
        futures = self._ticks.get(tick)
        if futures is not None:
            futures.pop(future, None)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._order and not self._ticks[self._order[0]]:
            del self._ticks[heapq.heappop(self._order)]
        if self._order:
            self._timer_tick = self._order[0]
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._timer_tick * TICK_SECONDS, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._order and self._order[0] * TICK_SECONDS <= now:
            for future in self._ticks.pop(heapq.heappop(self._order)):
                self._end(future)
        self._set_timer()
