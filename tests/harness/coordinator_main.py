"""A coordinator that kills itself at a chosen step: `python -m tests.harness.coordinator_main step n`.

It knows the tests' own service from the start (embedded mode has no way to register one). For the rest it is
the product's own server over the product's own adapters; only the ports are wrapped, so that the n-th
time that the step is reached the process dies as if somebody had pulled the plug.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coordinator.application.ports import Appended, Clock, LogUnavailable, NewEvent, Recorded, StoredPayload
from coordinator.domain.job import JobCompleted, JobSubmitted
from coordinator.domain.settlement import (
    SettlementClosed,
    SettlementConfirmed,
    SettlementPrepared,
    SettlementSubmitted,
)
from coordinator.runtime import server
from coordinator.runtime.bootstrap import SYSTEM_CLOCK, connect, open_adapters
from coordinator.runtime.coordinator import CoordinatorProcess
from coordinator.runtime.modes.adapters import Adapters
from coordinator.runtime.process.logs import configure_logs
from coordinator.runtime.process.parent_watch import stop_with_parent
from coordinator.runtime.settings import Settings, load_settings
from coordinator.services.catalog import load_catalog
from coordinator.settlement.file import FileSink
from coordinator.wire.offers import Offer
from tests.harness.executor import SPEC


class Countdown:
    """Dies when it was called for the n-th time."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._left = n

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class _Wrapped:
    """Everything as in the port, but for what a subclass does differently."""

    def __init__(self, inner: Any, count: Countdown) -> None:
        self._inner = inner
        self._count = count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _BeforeOffers(_Wrapped):
    async def publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        self._count()
        unsent: list[Offer] = await self._inner.publish(profile, bundles)
        return unsent


class _AfterCommit(_Wrapped):
    kind: type = JobCompleted

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        appended: Appended = self._inner.append(events, payloads)
        if any(isinstance(new.event, self.kind) for new in events):
            self._count()
        return appended


class _AfterSubmit(_AfterCommit):
    kind = JobSubmitted


class _AfterClose(_AfterCommit):
    kind = SettlementClosed


class _AfterPrepare(_AfterCommit):
    kind = SettlementPrepared


class _AfterTaken(_AfterCommit):
    kind = SettlementSubmitted


class _AfterPaid(_AfterCommit):
    kind = SettlementConfirmed


def _after_file(adapters: Adapters, count: Countdown) -> Adapters:
    """When the file of a batch is there, and the log does not know it yet."""
    write = FileSink._write

    def dying(sink: FileSink, payment: Any) -> Any:
        told = write(sink, payment)
        count()
        return told

    FileSink._write = dying  # type: ignore[method-assign, assignment]
    return adapters


class _LostAcknowledgement(_Wrapped):
    """Commits, and says once in n times that it does not know."""

    _calls = 0

    def append(self, events: Sequence[NewEvent], payloads: Sequence[StoredPayload] = ()) -> Appended:
        appended: Appended = self._inner.append(events, payloads)
        self._calls += 1
        if self._calls % self._count.n == 0:
            raise LogUnavailable("the acknowledgement was lost")
        return appended


class _InProjection(_Wrapped):
    """In the projector's transaction, when all is written and nothing committed."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._inner.transaction() as tables:
            yield _DyingTables(tables, self._count)


class _DyingTables(_Wrapped):
    def move(self, follower: str, before: int, after: int) -> None:
        self._inner.move(follower, before, after)
        if follower == "projector":
            self._count()


class _InCheckpoint(_Wrapped):
    """When a checkpoint is signed and in its file, and neither it nor its tiles are committed."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._inner.transaction() as tables:
            yield _DyingNotary(tables, self._count)


class _DyingNotary(_Wrapped):
    def move(self, follower: str, before: int, after: int) -> None:
        self._inner.move(follower, before, after)
        if follower == "notary":
            self._count()


class _AfterMessages(_Wrapped):
    """When messages to receivers are committed, and none of them is sent."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._inner.transaction() as tables:
            watched = _WatchedPuts(tables, self._count)
            yield watched
        if watched.has_messages:
            self._count()


class _WatchedPuts(_Wrapped):
    has_messages = False

    def put(self, table: str, rows: Sequence[Any]) -> None:
        self._inner.put(table, rows)
        self.has_messages |= table == "webhook_deliveries" and bool(rows)


class _AfterPublishing(_Wrapped):
    async def publish(self, events: Sequence[Recorded]) -> None:
        await self._inner.publish(events)
        self._count()


STEPS: dict[str, Callable[[Adapters, Countdown], Adapters]] = {
    "never": lambda p, c: p,
    "lost-acknowledgements": lambda p, c: dataclasses.replace(p, log=_LostAcknowledgement(p.log, c)),
    "before-offers": lambda p, c: dataclasses.replace(p, queues=_BeforeOffers(p.queues, c)),
    "after-submit-commit": lambda p, c: dataclasses.replace(p, log=_AfterSubmit(p.log, c)),
    "after-result-commit": lambda p, c: dataclasses.replace(p, log=_AfterCommit(p.log, c)),
    "in-projection": lambda p, c: dataclasses.replace(p, database=_InProjection(p.database, c)),
    "in-checkpoint": lambda p, c: dataclasses.replace(p, database=_InCheckpoint(p.database, c)),
    "after-messages": lambda p, c: dataclasses.replace(p, database=_AfterMessages(p.database, c)),
    "after-batch-closed": lambda p, c: dataclasses.replace(p, log=_AfterClose(p.log, c)),
    "after-batch-prepared": lambda p, c: dataclasses.replace(p, log=_AfterPrepare(p.log, c)),
    "after-batch-file": _after_file,
    "after-batch-taken": lambda p, c: dataclasses.replace(p, log=_AfterTaken(p.log, c)),
    "after-batch-paid": lambda p, c: dataclasses.replace(p, log=_AfterPaid(p.log, c)),
    "after-events-published": lambda p, c: dataclasses.replace(p, sink=_AfterPublishing(p.sink, c)),
}


def clock() -> Clock:
    """The system's, with its wall clock set by the seconds in the file CLOCK_OFFSET_FILE, if there is one."""
    name = os.environ.get("CLOCK_OFFSET_FILE")
    if name is None:
        return SYSTEM_CLOCK
    file = Path(name)

    def now() -> int:
        return SYSTEM_CLOCK.now() + (int(file.read_text()) * 1000 if file.exists() else 0)

    return Clock(now=now, monotonic=SYSTEM_CLOCK.monotonic)


def main(step: str, n: str) -> None:
    stop_with_parent()
    settings = load_settings(_env_file=None)
    configure_logs(settings.log_format, settings.log_level)
    count = Countdown(int(n))

    def build(given: Settings) -> CoordinatorProcess:
        adapters = STEPS[step](open_adapters(given), count)
        return connect(given, adapters, clock(), catalogue=lambda: [*load_catalog(), SPEC])

    server.run(settings, build=build)


if __name__ == "__main__":
    main(*sys.argv[1:])
