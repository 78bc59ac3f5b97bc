"""Timers: turn silence and deadlines into commands.

Heartbeats are not events. They move `last_seen` and `lease_until` in the timers' tables. Once such a time has
passed, the timers send a command: `job.lose`, `miner.lose` or `job.expire`. A late command is refused like
any other, so it does no harm to a result that arrives first.

Silence counts only while we listen: not while the broker is out of reach, blocks publishers, or has no
consumer of heartbeats. After a start, a takeover, a reconnect or a pause of this process, no lease and no
session ends for one full timeout. The same holds after a jump of the wall clock, and no job expires then:
the times in the tables are those of another clock, which may be set back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import assert_never

import structlog

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.health import Part
from coordinator.application.ports import Clock, Database, Intent, Recorded, Row, Tables
from coordinator.domain.errors import Code
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobExpire,
    JobExpired,
    JobFailed,
    JobLose,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    is_job_event,
)
from coordinator.domain.messages import SYSTEM, Command
from coordinator.domain.miner import (
    MinerDrained,
    MinerLeft,
    MinerLose,
    MinerLost,
    MinerRegistered,
    is_miner_event,
)
from coordinator.wire.answers import Answer, Refused

MAX_DUE = 400  # commands of each kind per tick
PAUSE_SECONDS = 3.0  # a tick that is this late means that this process was paused
JUMP_SECONDS = 1.0  # the wall clock was set if it is off by more; NTP's own corrections are far smaller

log = structlog.get_logger("timers")


class Timers(FollowerBase):
    """Tables: leases, live_sessions. The dispatcher's open_work has the time limits of jobs."""

    name = "timers"
    tick_seconds = 0.5
    linger_seconds = 0.2  # no timeout is that short
    acts_on = frozenset()

    def __init__(
        self,
        database: Database,
        handle: Callable[[Sequence[Intent]], Awaitable[list[Answer]]],
        clock: Clock,
        heartbeat_timeout: float,
        listening: Callable[[], bool] = lambda: True,
        clock_part: Part | None = None,
    ) -> None:
        """`heartbeat_timeout`: seconds of silence after which a session or a lease ends.

        `listening`: whether heartbeats can reach us now. `clock_part` is told of jumps.
        """
        self._database = database
        self._handle = handle
        self._clock = clock
        self._timeout = heartbeat_timeout
        self._timeout_ms = int(heartbeat_timeout * 1000)
        self._listening = listening
        self._listening_since = clock.monotonic()
        self._last_tick = clock.monotonic()
        self._last_now = clock.now()
        self._clock_part = clock_part
        self._jumped_at: float | None = None
        """Monotonic time of the last jump, for one timeout."""

    def restart_silence(self) -> None:
        """Start to count silence again, because heartbeats may have been lost in the meantime."""
        self._listening_since = self._clock.monotonic()

    # --- tables ---------------------------------------------------------------------------------------------
    def stand_by(self) -> None:
        if self._clock_part is not None:
            self._clock_part.works()

    def take_over(self, tables: Tables) -> None:
        self.restart_silence()
        self._last_tick = self._clock.monotonic()
        self._last_now = self._clock.now()
        # The clock may have been set while nobody watched.
        self._bound(tables, self._last_now)

    def _bound(self, tables: Tables, now: int) -> None:
        tables.execute("timers_leases_not_after", latest=now + self._timeout_ms)
        tables.execute("timers_seen_not_after", latest=now)

    def apply(self, tables: Tables, events: Sequence[Recorded]) -> None:
        leases: dict[str, Row | None] = {}
        sessions: dict[str, Row | None] = {}
        unleased: set[str] = set()
        """Jobs without a lease before this batch: a lease begins only after the end of the former one."""
        # Not the event's own time: no heartbeat could extend the lease before its row existed.
        now = self._clock.now()
        for recorded in events:
            event = recorded.event
            if is_job_event(event):
                job_id = recorded.key
                match event:
                    case JobStarted():
                        if job_id not in leases:
                            unleased.add(job_id)
                        leases[job_id] = {
                            "job_id": job_id,
                            "attempt": event.attempt,
                            "miner_id": event.miner_id,
                            "session_id": event.session_id,
                            "lease_until": now + self._timeout_ms,
                            "started_at": event.at,
                            "traceparent": recorded.traceparent,
                        }
                    case JobAttemptEnded() | JobCompleted() | JobFailed() | JobCanceled() | JobExpired():
                        leases[job_id] = None
                    case JobSubmitted() | JobRequeued():
                        pass  # a queued job has no lease
                    case _:
                        assert_never(event)
            elif is_miner_event(event):
                match event:
                    case MinerRegistered():
                        sessions[event.miner_id] = {
                            "miner_id": event.miner_id,
                            "session_id": event.session_id,
                            "last_seen": now,
                            "gpu_memory_json": None,
                        }
                    case MinerLeft() | MinerLost():
                        sessions[event.miner_id] = None
                    case MinerDrained():
                        pass  # it finishes its jobs and must keep sending heartbeats
                    case _:
                        assert_never(event)
        _write(tables, "leases", leases, unleased)
        _write(tables, "live_sessions", sessions, set())

    # --- due commands ---------------------------------------------------------------------------------------
    async def tick(self, stored_to: int) -> None:
        # Both clocks once: a jump in the middle of this is seen by the next tick.
        now, wall = self._clock.monotonic(), self._clock.now()
        passed = now - self._last_tick
        if passed < self.tick_seconds:
            return  # between two batches of a busy log
        jump = (wall - self._last_now) / 1000 - passed
        if passed > PAUSE_SECONDS:
            log.warning("this process was paused", seconds=round(passed, 1))
            self.restart_silence()
        if abs(jump) > JUMP_SECONDS:
            await self._clock_jumped(jump, wall)
        if not self._listening():
            self.restart_silence()
        self._last_tick, self._last_now = now, wall
        silence_counts = now - self._listening_since > self._timeout
        if self._jumped_at is not None and now - self._jumped_at > self._timeout:
            self._jumped_at = None
            if self._clock_part is not None:
                self._clock_part.works()
        expiry_counts = self._jumped_at is None
        due = await asyncio.to_thread(self._due, wall, silence_counts, expiry_counts)
        if not due:
            return
        answers = await self._handle([Intent(command, SYSTEM) for command in due])
        for command, answer in zip(due, answers, strict=True):
            if isinstance(answer, Refused) and answer.code in (Code.INTERNAL, Code.UNAVAILABLE):
                log.warning("a timer's command failed", command=command.topic, detail=answer.detail)
            elif isinstance(answer, Refused):
                log.debug("a timer's command came too late", command=command.topic, detail=answer.detail)

    async def _clock_jumped(self, jump: float, now: int) -> None:
        """Hold all timers for one timeout, and take the jump out of the running attempts' times."""
        text = f"the clock was set {'forward' if jump > 0 else 'back'} by {abs(jump):.0f} s"
        log.warning("the clock was set", seconds=round(jump, 1), held_seconds=self._timeout)
        self.restart_silence()
        self._jumped_at = self._clock.monotonic()
        if self._clock_part is not None:
            self._clock_part.fails(f"{text}; nothing expires for {self._timeout:g} s")

        def correct() -> None:
            with self._database.transaction() as tables:
                tables.execute("timers_shift", jump=int(jump * 1000))
                self._bound(tables, now)

        await asyncio.to_thread(correct)

    def _due(self, now: int, silence_counts: bool, expiry_counts: bool) -> list[Command]:
        with self._database.transaction() as tables:
            due: list[Command] = []
            if expiry_counts:
                due += [
                    JobExpire(job_id=row["job_id"], traceparent=row["traceparent"])
                    for row in tables.query("timers_expired", now=now, count=MAX_DUE)
                ]
            orphans = tables.query("timers_orphans", count=MAX_DUE)
            due += _lose_all(orphans, "the miner's session is over")
            if silence_counts:
                overrun = tables.query("timers_overrun", now=now, count=MAX_DUE)
                due += _lose_all(overrun, "the attempt ran longer than its service allows")
                unextended = tables.query("timers_unextended", now=now, count=MAX_DUE)
                due += _lose_all(unextended, "no heartbeat extended the lease")
                reason = f"silent for {self._timeout:g} seconds"
                due += [
                    MinerLose(miner_id=row["miner_id"], session_id=row["session_id"], reason=reason)
                    for row in tables.query("timers_silent", before=now - self._timeout_ms, count=MAX_DUE)
                ]
        return due


def _lose_all(rows: Sequence[Row], reason: str) -> list[JobLose]:
    return [
        JobLose(job_id=row["job_id"], attempt=row["attempt"], reason=reason, traceparent=row["traceparent"])
        for row in rows
    ]


def _write(tables: Tables, table: str, rows: dict[str, Row | None], new: set[str]) -> None:
    """Put the remaining rows and delete the removed ones; skip removed rows that are `new` in this batch."""
    left = [row for row in rows.values() if row is not None]
    gone = [key for key, row in rows.items() if row is None and key not in new]
    if left:
        tables.put(table, left)
    if gone:
        tables.remove(table, gone)
