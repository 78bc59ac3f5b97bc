"""One life cycle: components in a list, tasks that run on, tasks that nobody waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from coordinator.application.background import Background, BackgroundTask, LifeCycle


class Part:
    """A component that writes down its life."""

    def __init__(self, name: str, said: list[str], fails: str = "") -> None:
        self.name = name
        self.said = said
        self.fails = fails

    async def start(self) -> None:
        self.said.append(f"{self.name} starts")
        if self.fails == "start":
            raise ConnectionError(self.name)

    async def stop(self) -> None:
        self.said.append(f"{self.name} stops")
        if self.fails == "stop":
            raise OSError(self.name)


async def test_components_start_in_order_and_stop_in_reverse() -> None:
    """Each once, however often it is asked for; a stop without a start is nothing."""
    said: list[str] = []
    life_cycle = LifeCycle([Part("log", said), Part("bus", said)])
    await life_cycle.stop()
    for _ in range(2):
        await life_cycle.start()
    assert life_cycle.running
    for _ in range(2):
        await life_cycle.stop()
    assert not life_cycle.running
    assert ["log starts", "bus starts", "bus stops", "log stops"] == said


async def test_a_start_that_fails_stops_what_has_begun() -> None:
    """What began before, and the one that failed half-way, are stopped; the error is the caller's."""
    said: list[str] = []
    life_cycle = LifeCycle([Part("log", said), Part("bus", said, "start"), Part("inbox", said)])
    with pytest.raises(ConnectionError, match="bus"):
        await life_cycle.start()
    assert ["log starts", "bus starts", "bus stops", "log stops"] == said
    assert not life_cycle.running


async def test_a_stop_that_fails_stops_the_others_too() -> None:
    """One part that can't stop keeps no other from it."""
    said: list[str] = []
    life_cycle = LifeCycle([Part("log", said), Part("bus", said, "stop")])
    await life_cycle.start()
    with pytest.raises(OSError, match="bus"):
        await life_cycle.stop()
    assert ["bus stops", "log stops"] == said[2:]


async def test_a_task_runs_until_it_is_stopped() -> None:
    """Started twice it runs once; stopped, it has ended; it may be started again."""
    begun: list[int] = []

    async def run() -> None:
        begun.append(1)
        await asyncio.Event().wait()

    task = BackgroundTask("forever")
    await task.stop()
    for expected in (1, 2):
        task.start(run)
        task.start(run)
        await asyncio.sleep(0)
        assert task.running
        assert expected == len(begun)
        await task.stop()
        assert not task.running


async def test_tasks_that_nobody_waits_for_are_held_and_their_errors_told() -> None:
    """They run to their ends; one that fails is a line in the log; a stop cancels what is left."""
    done: list[str] = []

    async def work(name: str, error: Exception | None = None) -> None:
        await asyncio.sleep(0)
        if error:
            raise error
        done.append(name)

    background = Background("errands")
    with structlog.testing.capture_logs() as lines:
        background.spawn(work("one"))
        background.spawn(work("two", ValueError("broken")))
        assert 2 == len(background)
        await background.join()
    assert ["one"] == done
    assert ["a background task failed"] == [line["event"] for line in lines]

    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        await never

    background.spawn(wait())
    await background.stop()
    assert 0 == len(background)
