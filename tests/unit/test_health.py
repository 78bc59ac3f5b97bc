"""Health: parts report, probes ask, and one place tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from coordinator.application.health import Health, HealthProbes, Probe, ProbeFailed
from coordinator.application.ports import Appended, LogUnavailable, NewEvent, StoredPayload
from coordinator.application.watched_log import WatchedLog
from tests.harness.deciding import registered
from tests.harness.memory_log import MemoryEventLog
from tests.harness.metadata import METADATA
from tests.harness.waiting import eventually


class Ticks:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_part_fails_until_it_works_and_a_quick_repair_is_still_seen() -> None:
    """A reason stands from the first failure to the next success, and for a moment if that came at once."""
    ticks = Ticks()
    health = Health(ticks)
    log, clock = health.part("log"), health.part("clock", essential=False)
    assert ([], []) == (health.reasons(), health.warnings())
    log.fails("full")
    clock.fails("set")
    ticks.now += 60
    assert (["full"], ["set"]) == (health.reasons(), health.warnings())
    log.works()
    assert [] == health.reasons()
    log.fails("missing")
    log.works()
    assert ["missing"] == health.reasons()
    ticks.now += 2
    assert [] == health.reasons()
    health.watch("follower", lambda: ["stopped: a"])
    assert ["stopped: a"] == health.reasons()
    told = {name: (part.ok, part.reason, part.failures) for name, part in health.parts().items()}
    assert {
        "log": (True, None, 2),
        "clock": (False, "set", 1),
        "follower": (False, "stopped: a", 0),
    } == told


async def test_a_probe_that_hangs_fails_its_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer in time is a failure; the probe is not started a second time, and its late answer counts."""
    monkeypatch.setattr("coordinator.application.health.PROBE_TIMEOUT_SECONDS", 0.05)
    health = Health()
    frozen, broken = health.part("frozen"), health.part("broken")
    thawed, starts, failures = asyncio.Event(), 0, 0

    async def hang() -> None:
        nonlocal starts
        starts += 1
        await thawed.wait()

    async def fail() -> None:
        nonlocal failures
        failures += 1
        raise ProbeFailed("it is broken")

    probes = HealthProbes(health, [Probe(frozen, hang, 0.01), Probe(broken, fail, 0.01)])
    await probes.start()
    try:
        await eventually(lambda: len(health.reasons()) == 2)
        seen = failures
        await eventually(lambda: failures >= seen + 20)  # the other is due as often
        assert 1 == starts
        assert {"frozen: no answer for 0.05 s", "it is broken"} == set(health.reasons())
        thawed.set()
        await eventually(lambda: frozen.ok)
    finally:
        await probes.stop()


async def test_an_event_loop_that_stood_still_is_seen_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocked loop answers nobody; once it runs again, health tells for a while that it stood still."""
    for name, seconds in (("BEAT", 0.01), ("STALL", 0.2), ("STALL_SHOWN", 0.3), ("SHOWN", 0.0)):
        monkeypatch.setattr(f"coordinator.application.health.{name}_SECONDS", seconds)
    health = Health()
    probes = HealthProbes(health, [])
    await probes.start()
    try:
        await asyncio.sleep(0.05)
        time.sleep(0.5)  # noqa: ASYNC251 - the fault itself
        await eventually(lambda: "the event loop stood still" in str(health.reasons()))
        await eventually(lambda: health.reasons() == [])
    finally:
        await probes.stop()


class FlakyLog(MemoryEventLog):
    """A log that can be away, and that can be replaced by an older copy."""

    away = False
    watched: WatchedLog | None = None
    lost = 0

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        self._check()
        appended = super().append(events, payloads)
        if self.watched is not None:
            self.watched.head()  # as a probe does in another thread, before the answer of the append is here
        return appended

    def head(self) -> int:
        self._check()
        return super().head() - self.lost

    def _check(self) -> None:
        if self.away:
            raise LogUnavailable("the database can't be reached: connection to 10.0.0.7 as joe refused")


def event(stream: UUID, version: int = 1) -> NewEvent:
    return NewEvent(stream, version, registered(), METADATA)


def test_a_failed_append_stands_until_one_succeeds() -> None:
    """Reads don't hide it; the public reason has neither hosts nor users."""
    inner, health = FlakyLog(), Health()
    log = WatchedLog(inner, health)
    inner.watched = log
    for _ in range(3):
        log.append([event(uuid4())])
    assert (None, []) == (health.restart, health.reasons())
    inner.away = True
    with pytest.raises(LogUnavailable):
        log.append([event(uuid4())])
    inner.away = False
    assert 3 == log.head()
    assert ["the database can't be reached"] == health.reasons()
    log.append([event(uuid4())])
    assert health.part("log_append").ok


def test_a_log_that_went_back_takes_no_more_events() -> None:
    """Noticed before the first append after an interruption: none follows states of the future."""
    inner, health = FlakyLog(), Health()
    log = WatchedLog(inner, health)
    for _ in range(3):
        log.append([event(uuid4())])
    inner.away = True
    with pytest.raises(LogUnavailable):
        log.append([event(uuid4())])
    inner.away, inner.lost = False, 2
    with pytest.raises(LogUnavailable, match="older copy"):
        log.append([event(uuid4())])
    inner.lost = 0
    assert 3 == inner.head()
    assert health.restart is not None
    assert [health.restart] == [r for r in health.reasons() if "older copy" in r]
    with pytest.raises(LogUnavailable, match="older copy"):
        log.append([event(uuid4())])
