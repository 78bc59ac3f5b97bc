"""How many connections may be open: in all, from one address, and with one key; and how many with keys are.

A request under way, a stream of events and a WebSocket each hold a connection. Beyond a limit they are
refused, so that no address and no key takes the connections of all others.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal, Role

NOTICE_SECONDS: Final = 60.0
"""Between log lines about refusals of one kind."""

log = structlog.get_logger("edge")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """The most connections at a time; 0 for any number."""

    total: int = 0
    per_address: int = 0
    per_key: int = 0
    """Requests under way, streams and WebSockets of one name in one role."""
    streams: int = 0
    """Streams of events and WebSockets of all keys."""
    streams_per_key: int = 0
    """Those of a client or an admin. A miner's key may serve many nodes, so `per_key` alone limits it."""


class TooManyOpen(Refusal):
    """A key, or all keys, have as many requests or streams open as they may; the connection should end."""


class Refusals:
    """Logs refused connections: at most one line a minute for each kind, however many there are."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._logged: dict[str, float] = {}

    def note(self, limit: str, **about: Any) -> None:
        """Count a refusal; `about` describes it, as an example for all of its kind."""
        self._counts[limit] += 1
        now = time.monotonic()
        if now - self._logged.get(limit, -NOTICE_SECONDS) >= NOTICE_SECONDS:
            self._logged[limit] = now
            log.warning("connections refused", limit=limit, refused=self._counts.pop(limit), **about)


@dataclass(slots=True)
class OpenConnections:
    """The open connections of each key. Used on the event loop."""

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    streams: int = 0
    refusals: Refusals = field(default_factory=Refusals)
    _requests_of: dict[tuple[Role, str], int] = field(default_factory=dict)
    _streams_of: dict[tuple[Role, str], int] = field(default_factory=dict)

    def begin_request(self, principal: Principal) -> TooManyOpen | None:
        """Count a request of this principal; or the refusal, and it is not counted."""
        key, limit = (principal.role, principal.name), self.limits.per_key
        count = self._requests_of.get(key, 0)
        if limit and count >= limit:
            self.refusals.note("MAX_CONNECTIONS_PER_KEY", principal=principal.name)
            return _too_many(f"this key has {limit} requests under way; wait for their answers")
        self._requests_of[key] = count + 1
        return None

    def end_request(self, principal: Principal) -> None:
        """A counted request is over."""
        _drop(self._requests_of, (principal.role, principal.name))

    def check_stream(self, principal: Principal) -> None:
        """Raises TooManyOpen if this principal may open no further stream now."""
        limits, key = self.limits, (principal.role, principal.name)
        if limits.streams and self.streams >= limits.streams:
            self.refusals.note("MAX_STREAMS")
            raise TooManyOpen(Code.UNAVAILABLE, "too many streams are open; try again later")
        limit = limits.per_key if principal.role is Role.MINER else limits.streams_per_key
        if limit and self._streams_of.get(key, 0) >= limit:
            self.refusals.note("MAX_STREAMS_PER_KEY", principal=principal.name)
            raise _too_many(f"this key has {limit} streams open; close one, or follow all jobs on one")

    @contextmanager
    def stream(self, principal: Principal) -> Iterator[None]:
        """Count a stream while the block runs. Raises TooManyOpen beyond a limit."""
        self.check_stream(principal)
        key = (principal.role, principal.name)
        self.streams += 1
        self._streams_of[key] = self._streams_of.get(key, 0) + 1
        try:
            yield
        finally:
            self.streams -= 1
            _drop(self._streams_of, key)


def _drop(counts: dict[tuple[Role, str], int], key: tuple[Role, str]) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]


def _too_many(detail: str) -> TooManyOpen:
    return TooManyOpen(Code.RATE_LIMITED, detail)
