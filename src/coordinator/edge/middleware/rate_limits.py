"""Rate limits of keys: requests in a window, counted by role and name.

Counted in this process, or in Redis for all processes together. While Redis is out of reach each process
counts for itself: the limits become looser by the number of processes, and no client is locked out.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage, Storage

from coordinator.application.health import Part
from coordinator.domain.errors import Code
from coordinator.edge.context import Spent
from coordinator.edge.http.problems import Problem
from coordinator.edge.http.response_headers import Header
from coordinator.edge.middleware.rate_storage import LocalStorage
from coordinator.edge.state.networks import network_of

LIMIT_HEADER: Final = "RateLimit-Limit"
REMAINING_HEADER: Final = "RateLimit-Remaining"
RESET_HEADER: Final = "RateLimit-Reset"
POLICY_HEADER: Final = "RateLimit-Policy"
RATE_HEADERS: Final = (LIMIT_HEADER, REMAINING_HEADER, RESET_HEADER, POLICY_HEADER)
_LIMIT_NAME, _REMAINING_NAME, _RESET_NAME, _POLICY_NAME = (name.lower().encode() for name in RATE_HEADERS)

REDIS_SECONDS: Final = 0.25
"""A request's longest wait for Redis."""
REDIS_PAUSE_SECONDS: Final = 5.0
"""How long Redis is not used after a failure."""
NAME_BUCKETS: Final = 256
"""Failures are counted by address and name. Names share these buckets, so that made-up ones are bounded."""
NO_KEY: Final = "-"
DELAY_SECONDS: Final = 0.5
"""Before a failure over the limit is answered."""
MAX_DELAYED: Final = 32
"""Answers to an address that may be delayed at a time. Each ends its connection."""
MAX_REMEMBERED_WINDOWS: Final = 10_000

TOO_MANY_FAILURES: Final = "too many requests without a valid key came from this address"

T = TypeVar("T")
log = structlog.get_logger("edge")


def rate_headers(spent: Spent) -> list[Header]:
    """The fields of draft-ietf-httpapi-ratelimit-headers-06, which clients read today."""
    limit = b"%d" % spent.limit
    return [
        (_LIMIT_NAME, limit),
        (_REMAINING_NAME, b"%d" % max(0, spent.limit - spent.count)),
        (_RESET_NAME, b"%d" % max(0, math.ceil(spent.reset))),
        (_POLICY_NAME, b"%b;w=%d" % (limit, spent.window)),
    ]


def too_many(spent: Spent, detail: str) -> Problem:
    """The refusal of a request over its limit."""
    retry = str(max(1, math.ceil(spent.reset)))
    return Problem(Code.RATE_LIMITED, detail, headers={"Retry-After": retry})


class RateLimits:
    """The context's `RateLimiter`: the limits, and the counters of their use."""

    def __init__(
        self,
        limits: Mapping[str, int],
        window: int,
        shared: Callable[[], RedisStorage] | None = None,
        part: Part | None = None,
    ) -> None:
        """`limits`: requests in a window of `window` seconds, by role and for `failures`; 0: no limit.

        `shared` makes the storage that all processes share; `part` is told whether it works.
        """
        self._part = part
        self._items = {name: RateLimitItemPerSecond(n, window, name) for name, n in limits.items() if n > 0}
        self._window = window
        self._local = LocalStorage()
        self._strangers = LocalStorage()
        self._make_shared = shared
        self._shared: RedisStorage | None = None
        self._shared_retry_at = 0.0
        self._delayed: dict[str, int] = {}
        self._resets: dict[str, float] = {}

    async def close(self) -> None:
        """Give back the connection to Redis, if there is one."""
        shared, self._shared = self._shared, None
        if shared is not None:
            with contextlib.suppress(Exception):  # Redis may be out of reach
                async with asyncio.timeout(REDIS_SECONDS):
                    await shared.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    async def spend(self, role: str, name: str) -> Spent | None:
        """Count a request; None if this role is not limited."""
        item = self._items.get(role)
        if item is None:
            return None
        key = item.key_for(role, name)
        spent = await self._with_shared(lambda storage: self._count_shared(storage, item, key))
        if spent is None:
            count = await self._local.incr(key, item.get_expiry())
            spent = self._spent(item, count, await self._local.get_expiry(key))
        return spent

    async def failures(self, address: str, name: str, *, count: bool) -> Spent | None:
        """Failed authentications of this address under this name ("" without a key); `count` adds one.

        None if failures are not limited. Counted in this process alone, because this check comes before any
        other work for a stranger.
        """
        item = self._items.get("failures")
        if item is None:
            return None
        bucket = str(zlib.crc32(name.encode(errors="replace")) % NAME_BUCKETS) if name else NO_KEY
        key = item.key_for(network_of(address), bucket)
        if count:
            failed = await self._strangers.incr(key, item.get_expiry())
        else:
            failed = await self._strangers.get(key)
        return self._spent(item, failed, await self._strangers.get_expiry(key))

    async def delay(self, address: str) -> None:
        """Wait before a failure over the limit is answered, unless many of this address wait already."""
        network = network_of(address)
        waiting = self._delayed.get(network, 0)
        if waiting >= MAX_DELAYED:
            return
        self._delayed[network] = waiting + 1
        try:
            await asyncio.sleep(DELAY_SECONDS)
        finally:
            self._delayed[network] -= 1
            if not self._delayed[network]:
                del self._delayed[network]

    async def is_first_use(self, token: str, seconds: int) -> bool | None:
        """Whether no process has seen this token for so many seconds; None without Redis."""

        async def use(storage: Storage) -> bool:
            return await storage.incr(f"once/{token}", seconds) == 1

        return await self._with_shared(use)

    def _spent(self, item: RateLimitItem, count: int, ends: float) -> Spent:
        return Spent(item.amount, count, self._window, ends - time.time())

    async def _count_shared(self, storage: Storage, item: RateLimitItem, key: str) -> Spent:
        count = await storage.incr(key, item.get_expiry())
        ends = self._resets.get(key, 0.0)
        if count == 1 or ends <= time.time():
            if len(self._resets) >= MAX_REMEMBERED_WINDOWS:
                self._resets.clear()
            ends = self._resets[key] = await storage.get_expiry(key)
        return self._spent(item, count, ends)

    async def _with_shared(self, use: Callable[[Storage], Awaitable[T]]) -> T | None:
        """The answer of Redis; None without Redis, or without an answer in time."""
        if self._make_shared is None or time.monotonic() < self._shared_retry_at:
            return None
        try:
            if self._shared is None:
                self._shared = self._make_shared()
            async with asyncio.timeout(REDIS_SECONDS):
                answer = await use(self._shared)
        except Exception as error:  # no failure of Redis may fail the request
            if not self._shared_retry_at:
                log.warning(
                    "redis is out of reach: each process counts for itself", error=type(error).__name__
                )
            self._shared_retry_at = time.monotonic() + REDIS_PAUSE_SECONDS
            if self._part is not None:
                self._part.fails("redis is out of reach: each process counts requests for itself")
            return None
        if self._shared_retry_at:
            log.info("redis answers again")
            self._shared_retry_at = 0.0
            if self._part is not None:
                self._part.works()
        return answer


def redis_storage(url: str) -> RedisStorage:
    """A storage in the Redis at `url` (`redis://` or `rediss://`). Connects with its first use."""
    return RedisStorage(f"async+{url}", implementation="redispy", key_prefix="coordinator")
