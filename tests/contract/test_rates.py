"""Budgets of requests: the same in this process and in Redis, where all processes count together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from starlette.datastructures import Headers

from coordinator.dev.servers import RedisServer
from coordinator.dev.servers.processes import free_port
from coordinator.edge.context import Spent
from coordinator.edge.middleware import rate_limits as module
from coordinator.edge.middleware import rate_storage
from coordinator.edge.middleware.rate_limits import RateLimits, rate_headers, redis_storage, too_many
from coordinator.edge.middleware.rate_storage import SWEEP_CALLS, LocalStorage

SOON = 30.0
LIMITS = {"client": 3, "miner": 0, "admin": 2, "failures": 2}
Make = Callable[..., RateLimits]
_names = (f"name-{uuid4().hex}" for _ in count())


@pytest.fixture
def name() -> str:
    """A name that no other test counts under: Redis is the session's."""
    return next(_names)


@pytest.fixture(params=["memory", "redis"])
def shared(request: pytest.FixtureRequest) -> str | None:
    """Where is counted: the url of a Redis, or None."""
    if request.param == "memory":
        return None
    server: RedisServer = request.getfixturevalue("redis")
    return server.url


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that runs is waited for, however busy the machine: what it misses is counted elsewhere."""
    monkeypatch.setattr(module, "REDIS_SECONDS", SOON)


@pytest.fixture
async def make(shared: str | None) -> AsyncIterator[Make]:
    """Makes `RateLimits`, one for each process that a test wants."""
    async with AsyncExitStack() as stack:

        def rates(url: str | None = shared, window: int = 60, **limits: int) -> RateLimits:
            storage = None if url is None else lambda: redis_storage(url)
            made = RateLimits({**LIMITS, **limits}, window, storage)
            stack.push_async_callback(made.close)
            return made

        yield rates


async def spend(rates: RateLimits, role: str, name: str) -> Spent:
    spent = await rates.spend(role, name)
    assert spent is not None
    return spent


async def test_a_budget_is_spent_request_by_request(make: Make, name: str) -> None:
    """The limit is the last request that is let in; the headers say what is left, and until when."""
    rates = make()
    told = [await spend(rates, "client", name) for _ in range(5)]
    assert [True, True, True, False, False] == [spent.allowed for spent in told]
    headers = [Headers(raw=rate_headers(spent)) for spent in told]
    assert ["2", "1", "0", "0", "0"] == [h["RateLimit-Remaining"] for h in headers]
    assert {("3", "3;w=60")} == {(h["RateLimit-Limit"], h["RateLimit-Policy"]) for h in headers}
    assert all(0 < int(h["RateLimit-Reset"]) <= 60 for h in headers)
    problem = too_many(told[-1], "no")
    assert (429, headers[-1]["RateLimit-Reset"]) == (problem.status, problem.headers["Retry-After"])


async def test_each_name_in_each_role_has_its_own(make: Make, name: str) -> None:
    """Nobody spends another's budget, and a role without a limit has none to spend."""
    rates = make()
    for _ in range(3):
        assert (await spend(rates, "client", name)).allowed
    assert not (await spend(rates, "client", name)).allowed
    assert (await spend(rates, "client", f"{name}-2")).allowed
    assert (await spend(rates, "admin", name)).allowed
    assert None is await rates.spend("miner", name)


async def test_a_window_ends(make: Make, name: str) -> None:
    """Then the whole budget is there again."""
    rates = make(window=1, client=1)
    while (over := await spend(rates, "client", name)).allowed:
        pass  # the second in a window is refused; on a busy machine a window may end between the two
    await asyncio.sleep(over.reset)
    for _ in range(200):  # Redis tells whole seconds
        spent = await spend(rates, "client", name)
        if spent.allowed:
            break
        await asyncio.sleep(0.05)
    assert 1 == spent.count


async def test_a_token_is_used_once(make: Make, name: str) -> None:
    """By any process, where there is a Redis to ask; without one there is nobody to know."""
    one, other = make(), make()
    known = (True, False) if one._make_shared else (None, None)
    assert known == (await one.is_first_use(name, 60), await other.is_first_use(name, 60))


# --- several processes -------------------------------------------------------------------------------------
async def test_processes_count_together(make: Make, shared: str | None, name: str) -> None:
    """With Redis a second process finds spent what the first one spent; without, each counts alone."""
    one, other = make(), make()
    for _ in range(3):
        await spend(one, "client", name)
    assert (shared is None) == (await spend(other, "client", name)).allowed


# --- Redis away --------------------------------------------------------------------------------------------
@pytest.fixture
async def breakable(
    breakable_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RateLimits]:
    monkeypatch.setattr(module, "REDIS_PAUSE_SECONDS", 0.05)
    rates = RateLimits(LIMITS, 60, lambda: redis_storage(breakable_redis.url))
    yield rates
    breakable_redis.start()
    breakable_redis.resume()
    await rates.close()


async def until_shared(rates: RateLimits, name: str) -> None:
    """Until Redis is asked again, and answers."""
    for _ in range(1000):
        if await rates.is_first_use(f"{name}-{next(_names)}", 60) is not None:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("Redis is never asked again")


async def test_without_redis_each_process_counts_for_itself(
    breakable: RateLimits, breakable_redis: RedisServer, name: str
) -> None:
    """A Redis that dies shuts nobody out and lets nobody through for ever; back, it is used again."""
    assert (await spend(breakable, "client", name)).allowed
    breakable_redis.kill()
    told = [(await spend(breakable, "client", name)).allowed for _ in range(4)]
    assert [True, True, True, False] == told  # this process begins at nothing
    assert None is await breakable.is_first_use(name, 60)
    breakable_redis.start()
    await until_shared(breakable, name)
    assert 1 == (await spend(breakable, "client", name)).count  # the one that came back had forgotten


async def test_a_frozen_redis_costs_one_request_a_moment(
    breakable: RateLimits, breakable_redis: RedisServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request waits for it, at most REDIS_SECONDS; the others do not even ask."""
    await spend(breakable, "client", name)
    monkeypatch.setattr(module, "REDIS_SECONDS", 0.25)
    monkeypatch.setattr(module, "REDIS_PAUSE_SECONDS", 3600.0)
    breakable_redis.pause()
    asked = 0
    ask = breakable._count_shared

    async def counted(*what: Any) -> Spent:
        nonlocal asked
        asked += 1
        return await ask(*what)

    monkeypatch.setattr(breakable, "_count_shared", counted)
    async with asyncio.timeout(SOON):
        for _ in range(50):
            await spend(breakable, "client", name)
    assert 1 == asked


async def test_a_redis_that_was_never_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong url is a warning in the log, and limits that each process keeps."""
    monkeypatch.setattr(module, "REDIS_SECONDS", 0.25)  # asking for a name may take long
    for url in (f"redis://127.0.0.1:{free_port()}/0", "redis://no-such-host.invalid/0"):
        rates = RateLimits(LIMITS, 60, lambda url=url: redis_storage(url))  # type: ignore[misc]
        told = [(await spend(rates, "client", name)).allowed for _ in range(4)]
        assert [True, True, True, False] == told
        await rates.close()


async def test_a_wrong_password(redis: RedisServer, name: str) -> None:
    """The same: nobody is shut out because of a setting."""
    rates = RateLimits(LIMITS, 60, lambda: redis_storage(redis.url.replace("://:", "://:not-")))
    assert 1 == (await spend(rates, "client", name)).count
    await rates.close()


# --- strangers ---------------------------------------------------------------------------------------------
async def failed(rates: RateLimits, address: str, name: str = "alice") -> int:
    spent = await rates.failures(address, name, count=True)
    assert spent is not None
    return spent.count


async def test_failures_count_by_address_and_name() -> None:
    """A stranger shuts nobody else out, and gets no further with other addresses of one net."""
    rates = RateLimits(LIMITS, 60)
    assert [1, 2] == [await failed(rates, "192.0.2.1") for _ in range(2)]
    assert 1 == await failed(rates, "192.0.2.2")
    assert 1 == await failed(rates, "192.0.2.1", "bob")
    assert 1 == await failed(rates, "2001:db8::1")
    assert 2 == await failed(rates, "2001:db8::ffff:2")  # the same /64
    assert 1 == await failed(rates, "2001:db8:0:1::1")
    assert 3 == await failed(rates, "::ffff:192.0.2.1")
    assert 1 == await failed(rates, "not an address")
    looked = await rates.failures("192.0.2.1", "alice", count=False)
    assert looked is not None
    assert 3 == looked.count


async def test_made_up_names_cost_no_memory() -> None:
    """However many names a stranger tries, so many counters there are for one address."""
    rates = RateLimits(LIMITS, 60)
    for n in range(2000):
        await rates.failures("192.0.2.1", f"name-{n}\udc80", count=True)
    assert len(rates._strangers) <= module.NAME_BUCKETS


async def test_counters_that_are_over_are_forgotten() -> None:
    """Memory is bounded by what happens in a window."""
    storage = LocalStorage()
    for n in range(100):
        await storage.incr(f"old-{n}", -1)
    for _ in range(SWEEP_CALLS):
        await storage.incr("new", 60)
    assert 1 == len(storage)
    await storage.clear("new")
    assert (0, 0, True) == (await storage.get("new"), await storage.reset(), await storage.check())
    assert await storage.get_expiry("new") > 0


async def test_a_flood_of_strangers_costs_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters beyond the bound are all forgotten, which is cheaper than to choose."""
    monkeypatch.setattr(rate_storage, "MAX_COUNTERS", 1000)
    storage = LocalStorage()
    for n in range(3 * SWEEP_CALLS):
        await storage.incr(f"stranger-{n}", 3600)
    assert len(storage) <= 1000 + SWEEP_CALLS
