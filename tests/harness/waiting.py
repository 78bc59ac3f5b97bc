"""Waiting for what other processes do: a look every few milliseconds, and a deadline that says for what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar, overload

LOOK_EVERY_SECONDS = 0.03
PATIENCE_SECONDS = 90.0
"""Generous: the machine may be busy with other tests."""

T = TypeVar("T")


def _describe(condition: Callable[[], object]) -> str:
    return getattr(condition, "__name__", repr(condition))


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], what: str = ..., timeout: float = ..., *, tolerate: bool = ...
) -> T: ...


@overload
async def eventually(
    condition: Callable[[], T], what: str = ..., timeout: float = ..., *, tolerate: bool = ...
) -> T: ...


async def eventually(
    condition: Callable[[], Any],
    what: str = "",
    timeout: float = PATIENCE_SECONDS,
    *,
    tolerate: bool = True,
) -> Any:
    """The first true value of `condition()`, awaited if need be. `tolerate`: an exception means "not yet"."""
    deadline = time.monotonic() + timeout
    error: Exception | None = None
    value: object = None
    while True:
        try:
            asked = condition()
            if isawaitable(asked):
                async with asyncio.timeout(deadline - time.monotonic()):
                    value = await asked
            else:
                value = asked
            if value:
                return value
        except Exception as failure:
            if not tolerate:
                raise
            error = failure
        if time.monotonic() > deadline:
            told = what or _describe(condition)
            raise AssertionError(f"not within {timeout:g} s: {told}; last: {value!r}") from error
        await asyncio.sleep(LOOK_EVERY_SECONDS)


def eventually_now(condition: Callable[[], T], what: str = "", timeout: float = PATIENCE_SECONDS) -> T:
    """The same for code that is not asynchronous (fixtures)."""
    return asyncio.run(eventually(condition, what, timeout))
