"""At most one process at a time holds a name, such as "projector": a Postgres advisory lock.

The locks of a process belong to one connection, which pings twice a second. The server ends a session that is
idle for IDLE_SECONDS, so a process that was stopped or cut off loses its names after that time. The process
itself gives them up no later.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from coordinator.application.ports import CoordinatorRuns, LogUnavailable
from coordinator.storage.connections.postgres_pool import LEADER_LOCK_CLASS, connection_arguments

LEADER_APPLICATION = "coordinator-leader"
IDLE_SECONDS = 3.0
PING_SECONDS = 0.5
RECONNECT_SECONDS = 0.5

_TRY = "SELECT pg_try_advisory_lock(%s, hashtext(%s))"
_UNLOCK = "SELECT pg_advisory_unlock(%s, hashtext(%s))"
_PING = "SELECT 1"

_logger = structlog.get_logger(__name__)


def _now() -> float:
    """Seconds that also count the machine's sleep, where the system can tell."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class LocalLeadership:
    """For the embedded mode: the data directory's lock makes sure that there is only this process."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    async def acquire(self, name: str) -> None:
        self._held.add(name)

    def holds(self, name: str) -> bool:
        return name in self._held

    def led_elsewhere(self, name: str) -> bool:
        return False

    async def release(self, name: str) -> None:
        self._held.discard(name)

    async def close(self) -> None:
        self._held.clear()


class PostgresLeadership:
    """A `Leadership` over the database at `url`. One object per process; use it from one event loop."""

    def __init__(self, url: str) -> None:
        self._arguments = connection_arguments(url, LEADER_APPLICATION)
        self._held: set[str] = set()
        self._refused_at: dict[str, float] = {}
        """When another process last turned out to hold a name."""
        self._wanted: dict[str, set[asyncio.Future[None]]] = {}
        self._to_release: set[str] = set()
        self._answered_at = 0.0
        """Time at which the last answered statement was sent: the server's idle timeout began no earlier."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def acquire(self, name: str) -> None:
        if self._closed:
            raise RuntimeError("the leadership was closed")
        if self.holds(name):
            return
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=LEADER_APPLICATION)
        wanted = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(name, set()).add(wanted)
        self._wake.set()
        try:
            await wanted
        except asyncio.CancelledError:
            if wanted.done() and not wanted.cancelled():
                await self.release(name)  # acquired at the moment when the caller gave up
            else:
                self._wanted.get(name, set()).discard(wanted)
            raise

    def holds(self, name: str) -> bool:
        return name in self._held and self._fresh()

    def led_elsewhere(self, name: str) -> bool:
        return _now() - self._refused_at.get(name, -IDLE_SECONDS) < IDLE_SECONDS

    async def release(self, name: str) -> None:
        if name in self._held:
            self._held.discard(name)
            self._to_release.add(name)
            self._wake.set()

    async def close(self) -> None:
        """Give up all names. May be called twice."""
        self._closed = True
        self._held.clear()
        for wanted in [w for waiting in self._wanted.values() for w in waiting]:
            wanted.cancel()
        self._wanted.clear()
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _fresh(self) -> bool:
        return _now() - self._answered_at < IDLE_SECONDS

    async def _run(self) -> None:
        disconnected = False
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    connection = await AsyncConnection.connect(**self._arguments, autocommit=True)
            except (psycopg.Error, OSError, TimeoutError) as error:
                if not disconnected:
                    disconnected = True  # logged once per outage
                    _logger.warning("leadership_disconnected", reason=_first_line(error))
            else:
                disconnected = False
                try:
                    await self._serve(connection)
                except (psycopg.Error, OSError, TimeoutError) as error:
                    _logger.warning("leadership_lost", names=sorted(self._held), reason=_first_line(error))
                finally:
                    self._held.clear()
                    self._to_release.clear()
                    await connection.close()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _serve(self, connection: AsyncConnection[Any]) -> None:
        """Take, release and ping until the connection fails or this process slept for too long."""
        self._answered_at = _now()
        await self._ask(connection, f"SET idle_session_timeout = '{int(IDLE_SECONDS * 1000)}ms'")
        while True:
            for name in list(self._to_release):
                self._to_release.discard(name)
                await self._ask(connection, _UNLOCK, LEADER_LOCK_CLASS, name)
            for name in [name for name, waiting in self._wanted.items() if waiting]:
                if await self._ask(connection, _TRY, LEADER_LOCK_CLASS, name):
                    self._take(name)
                else:
                    self._refused_at[name] = _now()
            await self._ask(connection, _PING)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_SECONDS):
                    await self._wake.wait()

    def _take(self, name: str) -> None:
        waiting = [w for w in self._wanted.pop(name, ()) if not w.done()]
        if not waiting:
            self._to_release.add(name)  # the callers gave up meanwhile
            return
        self._held.add(name)
        _logger.info("leadership_taken", name=name)
        for wanted in waiting:
            wanted.set_result(None)

    async def _ask(self, connection: AsyncConnection[Any], statement: str, *values: object) -> Any:
        if not self._fresh():
            # `holds` is false by now; a late answer must not make it true again.
            raise TimeoutError("this process did not run for too long")
        sent_at = _now()
        async with asyncio.timeout(IDLE_SECONDS):
            cursor = await connection.execute(statement, values or None)
            row = await cursor.fetchone() if cursor.description else None
        if _now() - self._answered_at >= IDLE_SECONDS:
            raise TimeoutError("the database took too long to answer")
        self._answered_at = sent_at
        return row[0] if row else None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


@contextlib.contextmanager
def nobody_leads(url: str, names: Sequence[str]) -> Iterator[None]:
    """Hold these names, so that no coordinator leads until the end. Raises CoordinatorRuns, LogUnavailable.

    A coordinator that was killed holds its names for IDLE_SECONDS more: this waits a little longer.
    """
    try:
        with psycopg.connect(**connection_arguments(url, LEADER_APPLICATION), autocommit=True) as connection:
            patience = _now() + IDLE_SECONDS + PING_SECONDS
            for name in names:
                while not _try(connection, name):
                    if _now() > patience:
                        raise CoordinatorRuns("a coordinator of this database runs")
                    time.sleep(PING_SECONDS)
            yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise LogUnavailable(f"the database can't be reached: {error}") from error


def _try(connection: psycopg.Connection[Any], name: str) -> bool:
    row = connection.execute(_TRY, (LEADER_LOCK_CLASS, name)).fetchone()
    return row is not None and bool(row[0])
