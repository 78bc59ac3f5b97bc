"""The used signatures of requests: each is valid once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from coordinator.domain.errors import Code
from coordinator.edge.http.problems import Problem

MAX_REMEMBERED: Final = 100_000
"""Signatures of one name in one window; more are refused rather than forgotten."""


class UsedSignatures:
    """Remembers used signatures as long as their timestamps are valid."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._used: dict[tuple[str, int], set[bytes]] = {}
        """By name, and by timestamp in whole windows."""

    def use(self, name: str, timestamp: float, window: int, signature: str) -> bool:
        """Whether this is the signature's first use. Raises Problem if there are too many to remember."""
        now = self._clock()
        oldest = (now - window) // window
        if (name, int(timestamp // window)) not in self._used:
            self._used = {key: used for key, used in self._used.items() if key[1] >= oldest}
        used = self._used.setdefault((name, int(timestamp // window)), set())
        token = bytes.fromhex(signature)
        if token in used:
            return False
        if len(used) >= MAX_REMEMBERED:
            raise Problem(
                Code.RATE_LIMITED,
                "too many signed requests; wait as long as Retry-After says",
                headers={"Retry-After": str(window)},
            )
        used.add(token)
        return True
