"""Deadlines: each future ends at its own time, with one timer for all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from coordinator.edge.state.deadlines import TICK_SECONDS, Deadlines


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.timers = 0

    def time(self) -> float:
        return self.now

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)

    def pass_to(self, moment: float) -> None:
        """Let the time pass, and run whatever is due."""
        self.now = moment
        self.call_soon(self.stop)
        self.run_forever()


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    asyncio.set_event_loop(clock)
    yield clock
    asyncio.set_event_loop(None)
    clock.close()


class Ends:
    """Futures, and the names of those that were ended."""

    def __init__(self, clock: Clock) -> None:
        self.ended: list[str] = []
        self._clock = clock
        self._names: dict[asyncio.Future[None], str] = {}
        self.deadlines = Deadlines(lambda future: self.ended.append(self._names[future]))

    def add(self, name: str, seconds: float) -> tuple[asyncio.Future[None], int]:
        future: asyncio.Future[None] = self._clock.create_future()
        self._names[future] = name
        ticks: list[int] = []
        self._clock.call_soon(lambda: ticks.append(self.deadlines.add(future, seconds)))
        self._clock.pass_to(self._clock.now)
        return future, ticks[0]


def test_each_ends_at_its_time_and_not_before(clock: Clock) -> None:
    """In the order of the deadlines, whatever the order in which they came; late by a tick at most."""
    ends = Ends(clock)
    for name, seconds in (("third", 30.0), ("first", 1.0), ("second", 15.0)):
        ends.add(name, seconds)
    for moment, ended in (
        (1000.99, []),
        (1001.0 + TICK_SECONDS, ["first"]),
        (1014.99, ["first"]),
        (1015.0 + TICK_SECONDS, ["first", "second"]),
        (1060.0, ["first", "second", "third"]),
    ):
        clock.pass_to(moment)
        assert ended == ends.ended


def test_a_removed_one_is_not_ended(clock: Clock) -> None:
    """It was answered; others of its tick end."""
    ends = Ends(clock)
    answered, tick = ends.add("answered", 1.0)
    ends.add("waiting", 1.0)
    ends.deadlines.remove(answered, tick)
    clock.pass_to(1002.0)
    ends.deadlines.remove(answered, tick)  # does nothing
    assert ends.ended == ["waiting"]


def test_thousands_share_one_timer(clock: Clock) -> None:
    """A timer is set when an earlier deadline comes, and not for each future."""
    ends = Ends(clock)
    for number in range(500):
        ends.add(str(number), 15.0 + number % 10)
    assert clock.timers == 1
    clock.pass_to(1030.0)
    assert sorted(map(str, range(500))) == sorted(ends.ended)


def test_a_timer_wakes_nobody_where_all_were_removed(clock: Clock) -> None:
    """Ticks that were emptied are passed over, up to the next deadline."""
    ends = Ends(clock)
    for number in range(100):
        future, tick = ends.add(str(number), 1.0 + number)
        ends.deadlines.remove(future, tick)
    ends.add("last", 200.0)
    timers = clock.timers
    clock.pass_to(1150.0)
    assert clock.timers - timers <= 1
    clock.pass_to(1201.0)
    assert ends.ended == ["last"]
