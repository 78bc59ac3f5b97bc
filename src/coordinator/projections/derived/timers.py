"""The timers' tables: the leases of running jobs, and the live sessions.

Heartbeats move `lease_until`, `last_seen` and the free memory; they are no events. A rebuild counts silence
from its own moment on, as a start does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, assert_never, get_args

from coordinator.application.ports import Recorded, Row, Tables
from coordinator.domain.job import (
    JobAttemptEnded,
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    is_job_event,
)
from coordinator.domain.messages import Event
from coordinator.domain.miner import (
    MinerDrained,
    MinerEvent,
    MinerLeft,
    MinerLost,
    MinerRegistered,
    is_miner_event,
)
from coordinator.projections.derived.port import StoredRows, compare

LEASES, SESSIONS = "leases", "live_sessions"


class TimerTables:
    """See the module."""

    follower: ClassVar[str] = "timers"
    events: ClassVar[tuple[type[Event], ...]] = (*get_args(JobEvent), *get_args(MinerEvent))
    statements: ClassVar[Mapping[str, str]] = {
        LEASES: "derived_leases",
        SESSIONS: "derived_live_sessions",
    }

    def __init__(self, now: Callable[[], int], heartbeat_timeout: float) -> None:
        """`now`: Unix milliseconds; `heartbeat_timeout`: seconds, the length of a new lease."""
        self._now = now
        self._lease_ms = int(heartbeat_timeout * 1000)
        self._running: dict[str, tuple[Recorded, JobStarted]] = {}
        """By job, the start of its attempt."""
        self._sessions: dict[str, dict[str, Any]] = {}

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        if is_job_event(event):
            self._take_job(recorded, event)
        elif is_miner_event(event):
            self._take_miner(event)

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        return str(row["job_id" if table == LEASES else "miner_id"])

    def differences(self, stored: StoredRows) -> Iterator[str]:
        leases = {job_id: _lease(*started) for job_id, started in self._running.items()}
        yield from compare(LEASES, leases, stored[LEASES])
        yield from compare(SESSIONS, self._sessions, stored[SESSIONS])

    def write(self, tables: Tables) -> None:
        now = self._now()
        leases: list[Row] = [
            {**_lease(recorded, event), "lease_until": now + self._lease_ms, "started_at": event.at}
            for recorded, event in self._running.values()
        ]
        sessions: list[Row] = [
            {**row, "last_seen": now, "gpu_memory_json": None} for row in self._sessions.values()
        ]
        for table, rows in ((LEASES, leases), (SESSIONS, sessions)):
            tables.execute(f"derived_clear_{table}")
            tables.put(table, rows)

    def _take_job(self, recorded: Recorded, event: JobEvent) -> None:
        job_id = recorded.key
        match event:
            case JobSubmitted() | JobRequeued():
                pass  # a queued job has no lease
            case JobStarted():
                self._running[job_id] = recorded, event
            case JobCompleted() | JobAttemptEnded() | JobFailed() | JobCanceled() | JobExpired():
                self._running.pop(job_id, None)
            case _:
                assert_never(event)

    def _take_miner(self, event: MinerEvent) -> None:
        match event:
            case MinerRegistered():
                self._sessions[event.miner_id] = {
                    "miner_id": event.miner_id,
                    "session_id": event.session_id,
                }
            case MinerLeft() | MinerLost():
                self._sessions.pop(event.miner_id, None)
            case MinerDrained():
                pass  # its session lives until it leaves
            case _:
                assert_never(event)


def _lease(recorded: Recorded, event: JobStarted) -> Row:
    """The columns that follow from the start. Its moment is not compared: a clock that was set moves it."""
    return {
        "job_id": recorded.key,
        "attempt": event.attempt,
        "miner_id": event.miner_id,
        "session_id": event.session_id,
        "traceparent": recorded.traceparent,
    }
