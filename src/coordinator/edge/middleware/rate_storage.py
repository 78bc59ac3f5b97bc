"""Counters in memory, as a storage for the library `limits`.

The library's own storage starts a task every ten milliseconds that checks every counter. This one drops
expired counters every SWEEP_CALLS calls.
"""

from __future__ import annotations

import time
from typing import Final

from limits.aio.storage import Storage

SWEEP_CALLS: Final = 4096
MAX_COUNTERS: Final = 200_000


class LocalStorage(Storage):
    """The counters of this process. Used on the event loop only.

    Beyond MAX_COUNTERS all are dropped, so that a flood of strangers costs bounded memory.
    """

    STORAGE_SCHEME: list[str] | None = None  # never made from a URL

    def __init__(self) -> None:
        super().__init__()
        self._counters: dict[str, tuple[int, float]] = {}
        """The count, and when it expires: monotonic, since a clock that is set back must lock nobody out."""
        self._calls = 0

    def __len__(self) -> int:
        return len(self._counters)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        return ()

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        now = time.monotonic()
        self._calls += 1
        if self._calls % SWEEP_CALLS == 0:
            self._counters = {k: c for k, c in self._counters.items() if c[1] > now}
            if len(self._counters) > MAX_COUNTERS:
                self._counters.clear()
        count, ends = self._counters.get(key, (0, 0.0))
        if ends <= now:
            count, ends = 0, now + expiry
        self._counters[key] = (count + amount, ends)
        return count + amount

    async def get(self, key: str) -> int:
        count, ends = self._counters.get(key, (0, 0.0))
        return count if ends > time.monotonic() else 0

    async def get_expiry(self, key: str) -> float:
        """Unix seconds, as the library's storages tell it."""
        now = time.monotonic()
        return time.time() + self._counters.get(key, (0, now))[1] - now

    async def check(self) -> bool:
        return True

    async def reset(self) -> int | None:
        count = len(self._counters)
        self._counters.clear()
        return count

    async def clear(self, key: str) -> None:
        self._counters.pop(key, None)
