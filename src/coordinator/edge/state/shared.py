"""Answers that many viewers share: computed once for all of an audience, not once for each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

import structlog

T = TypeVar("T")
MAX_ANSWERS: Final = 500
SHARE_OF_TIME: Final = 10
"""An answer lasts at least so many times as long as it took: a slow one takes a tenth of the time at most."""
PATIENCE_SECONDS: Final = 0.05

log = structlog.get_logger("edge")


@dataclass(slots=True)
class _Kept:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = float("-inf")
    cost: float = 0.0
    """Seconds that the last answer took."""
    answer: Any = None
    refreshing: asyncio.Task[None] | None = None


class Shared:
    """Used on the event loop. Callers that come while an answer is computed wait for it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._kept: dict[Hashable, _Kept] = {}

    async def get(self, key: Hashable, seconds: float, compute: Callable[[], Awaitable[T]]) -> T:
        """The answer of this key, at most `seconds` old. Raises the errors of `compute`, and keeps none."""
        kept = self._of(key)
        async with kept.lock:
            if self._is_old(kept, seconds):
                await self._compute(kept, compute)
            return cast("T", kept.answer)

    async def recent(self, key: Hashable, seconds: float, compute: Callable[[], Awaitable[T]]) -> T | None:
        """The last answer at once; one older than `seconds` is computed anew beside it.

        None before the first one, if that takes longer than PATIENCE_SECONDS. Errors are logged, and the
        answer before stays.
        """
        kept = self._of(key)
        if kept.refreshing is None and self._is_old(kept, seconds):
            kept.refreshing = asyncio.create_task(self._refresh(kept, compute))
        if kept.answer is None and kept.refreshing is not None:
            await asyncio.wait({kept.refreshing}, timeout=PATIENCE_SECONDS)
        return cast("T | None", kept.answer)

    def forget(self, key: Hashable) -> None:
        """Somebody has changed it: the next caller gets a new answer."""
        self._kept.pop(key, None)

    def _of(self, key: Hashable) -> _Kept:
        kept = self._kept.pop(key, None) or _Kept()
        self._kept[key] = kept  # the newest last
        if len(self._kept) > MAX_ANSWERS:
            del self._kept[next(iter(self._kept))]
        return kept

    def _is_old(self, kept: _Kept, seconds: float) -> bool:
        return self._monotonic() - kept.at > max(seconds, SHARE_OF_TIME * kept.cost)

    async def _compute(self, kept: _Kept, compute: Callable[[], Awaitable[Any]]) -> None:
        begun = self._monotonic()
        kept.answer = await compute()
        kept.at, kept.cost = begun, self._monotonic() - begun

    async def _refresh(self, kept: _Kept, compute: Callable[[], Awaitable[Any]]) -> None:
        try:
            await self._compute(kept, compute)
        except Exception as error:
            kept.at = self._monotonic()  # the next try comes after the usual time
            log.warning("figures could not be computed", error=type(error).__name__)
        finally:
            kept.refreshing = None
