"""Answers that many viewers share: computed once for all of an audience, not once for each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")
MAX_ANSWERS: Final = 500


@dataclass(slots=True)
class _Kept:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = float("-inf")
    answer: Any = None


class Shared:
    """Used on the event loop. Callers that come while an answer is computed wait for it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._kept: dict[Hashable, _Kept] = {}

    async def get(self, key: Hashable, seconds: float, compute: Callable[[], Awaitable[T]]) -> T:
        """The answer of this key, at most `seconds` old. Raises the errors of `compute`, and keeps none."""
        kept = self._kept.pop(key, None) or _Kept()
        self._kept[key] = kept  # the newest last
        if len(self._kept) > MAX_ANSWERS:
            del self._kept[next(iter(self._kept))]
        async with kept.lock:
            if self._monotonic() - kept.at > seconds:
                begun = self._monotonic()
                kept.answer = await compute()
                kept.at = begun
            return cast("T", kept.answer)
