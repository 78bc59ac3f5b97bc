"""A miner advertises what it can do now: engines that go and come back start a session, and fail no job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.miner.abilities import MAX_MODELS, Abilities
from coordinator.miner.executors.base import Outcome, Work
from coordinator.miner.executors.errors import ENGINE_UNAVAILABLE, ExecutorError
from tests.harness.waiting import eventually
from tests.integration.test_miner_http import Hands, Stub, running


class Fickle(Hands):
    """An executor on an engine that comes and goes: `problem` says why it is away."""

    watched = True

    def __init__(self, problem: str | None = None, *models: str) -> None:
        super().__init__()
        self.problem = problem
        self.models = models
        self.blips = 0
        """Jobs that find the engine away although it is there."""

    async def check(self) -> str | None:
        return self.problem

    async def run(self, work: Work) -> Outcome:
        outcome = await super().run(work)
        if self.problem or self.blips:
            self.blips = max(0, self.blips - 1)
            raise ExecutorError(ENGINE_UNAVAILABLE, "the engine is away", retryable=True)
        return outcome


class Steady(Hands):
    services = ("steady",)


@pytest.fixture
async def stub() -> Stub:
    return Stub()


@pytest.fixture
async def url(stub: Stub) -> AsyncIterator[str]:
    async with stub.serving() as url:
        yield url


def offered(stub: Stub) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Services and models of each registration."""
    told = [fields["capabilities"] for fields in stub.sent("register")]
    return [(tuple(c["services"]), tuple(c.get("models", ()))) for c in told]


async def test_an_engine_that_is_gone_is_not_advertised(stub: Stub, url: str, tmp_path: Path) -> None:
    """The job that finds it away goes back; a new session offers what is left, and later all again."""
    engine = Fickle(None, "tiny")
    executors = {"work": engine, "steady": Steady()}
    async with running(url, executors, tmp_path, recheck_seconds=0.05, models=("own",)):
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        await engine.started.get()
        engine.problem = "gone"
        engine.finish.set()
        await stub.until(lambda: len(offered(stub)) == 2)
        assert ["RELEASED"] == stub.states()
        engine.problem = None
        await stub.until(lambda: len(offered(stub)) == 3)
        await stub.add(n=2)
        await stub.until(lambda: stub.states() == ["RELEASED", "COMPLETED"])
    both, one = (("steady", "work"), ("own", "tiny")), (("steady",), ("own",))
    assert [both, one, both] == offered(stub)
    assert 3 == len({fields["session_id"] for fields in stub.sent("register")})
    assert [] == stub.sent("fail")


async def test_what_runs_is_finished_first(stub: Stub, url: str, tmp_path: Path) -> None:
    """A change of models waits for the work in hand, and takes nothing new meanwhile."""
    engine = Fickle(None, "old")
    async with running(url, {"work": engine}, tmp_path, recheck_seconds=0.05):
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        await engine.started.get()
        engine.models = ("new",)
        beats = len(stub.beats)
        await stub.until(lambda: len(stub.beats) >= beats + 3)
        await stub.add(n=2)
        await stub.until(lambda: len(stub.beats) >= beats + 6)
        assert (["RUNNING", "QUEUED"], 1) == (stub.states(), len(offered(stub)))
        engine.finish.set()
        await stub.until(lambda: stub.states() == ["COMPLETED", "COMPLETED"])
    assert [(("work",), ("old",)), (("work",), ("new",))] == offered(stub)


async def test_a_job_that_comes_with_results_is_finished_first(stub: Stub, url: str, tmp_path: Path) -> None:
    """A change of models that is found while a result is handed in waits for the job claimed with it, too."""
    engine = Fickle(None, "old")
    stub.turn_answered.clear()
    async with running(url, {"work": engine}, tmp_path, recheck_seconds=0.05) as program:
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        await engine.started.get()
        await stub.add(n=2)
        engine.finish.set()
        await stub.until(lambda: stub.states() == ["COMPLETED", "RUNNING"])
        engine.finish.clear()
        engine.models = ("new",)
        await eventually(lambda: program._slots.paused, "it knows of the change")
        stub.turn_answered.set()
        await engine.started.get()
        beats = len(stub.beats)
        await stub.until(lambda: len(stub.beats) >= beats + 3)
        assert 1 == len(offered(stub))
        engine.finish.set()
        await stub.until(lambda: len(offered(stub)) == 2)
    assert ["COMPLETED", "COMPLETED"] == stub.states()


async def test_a_miner_without_anything_left_leaves_until_there_is(
    stub: Stub, url: str, tmp_path: Path
) -> None:
    """With its only engine away a miner is offline, and comes back by itself."""
    engine = Fickle(None, "tiny")
    async with running(url, {"work": engine}, tmp_path, recheck_seconds=0.05):
        await stub.until(lambda: bool(stub.session))
        engine.problem = "gone"
        await stub.until(lambda: len(stub.sent("leave")) == 1)
        assert stub.sent("leave")[0]["session_id"] == stub.sent("register")[0]["session_id"]
        engine.problem = None
        await stub.until(lambda: len(offered(stub)) == 2)


async def test_a_blip_fails_its_attempt_alone(stub: Stub, url: str, tmp_path: Path) -> None:
    """Where the engine is there after all the attempt fails as it says, and the session goes on."""
    engine = Fickle()
    engine.blips = 1
    engine.finish.set()
    async with running(url, {"work": engine}, tmp_path, recheck_seconds=60):
        await stub.until(lambda: bool(stub.session))
        await stub.add(n=1)
        await stub.until(lambda: stub.states() == ["FAILED"])
        await stub.add(n=2)
        await stub.until(lambda: stub.states() == ["FAILED", "COMPLETED"])
    assert [ENGINE_UNAVAILABLE] == [fields["error_code"] for fields in stub.sent("fail")]
    assert 1 == len(offered(stub))


async def test_each_executor_is_checked_once_and_a_broken_check_costs_its_services_alone() -> None:
    """Models come from those that work; who raises in its check is a problem, not a crash."""

    class Broken(Hands):
        async def check(self) -> str | None:
            raise OSError("secret path")

    class Two(Fickle):
        checks = 0

        async def check(self) -> str | None:
            Two.checks += 1
            return None

    two = Two(None, *(f"m{n}" for n in range(2 * MAX_MODELS)))
    installed: dict[str, Any] = {"a": two, "b": two, "broken": Broken(), "away": Fickle("not set", "never")}
    abilities = Abilities(installed)
    await asyncio.gather(abilities.check())
    assert (("a", "b"), 1) == (abilities.services, Two.checks)
    assert {"broken": "its check failed (OSError)", "away": "not set"} == abilities.problems
    assert MAX_MODELS == len(abilities.models)
    assert "never" not in abilities.models
    assert not await abilities.check_again()


async def test_a_name_that_no_job_can_ask_for_is_not_advertised() -> None:
    """Of the miner's own models and of its executors', those with a name by the rule are."""
    hands = Fickle(None, "good/model:1", "/srv/bad.gguf", "with space")
    abilities = Abilities({"work": hands}, ["mine", "-not", "x" * 101])
    await abilities.check()
    assert ("good/model:1", "mine") == abilities.models
