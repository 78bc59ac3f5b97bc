"""The timers' tables: the leases of running jobs, and the live sessions.

Heartbeats move `lease_until`, `last_seen` and the free memory; they are no events. A rebuild counts silence
from its own moment on, as a start does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, assert_never

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
    statements: ClassVar[Mapping[str, str]] = {
        LEASES: "derived_leases",
        SESSIONS: "derived_live_sessions",
    }

    def __init__(self, now: Callable[[], int], heartbeat_timeout: float) -> None:
        """`now`: Unix milliseconds; `heartbeat_timeout`: seconds, the length of a new lease."""
        self._now = now
        self._lease_ms = int(heartbeat_timeout * 1000)
        self._leases: dict[str, dict[str, Any]] = {}
        self._started_at: dict[str, int] = {}
        """By job. Not compared: a clock that was set moves it."""
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
        yield from compare(LEASES, self._leases, stored[LEASES])
        yield from compare(SESSIONS, self._sessions, stored[SESSIONS])

    def write(self, tables: Tables) -> None:
        now = self._now()
        leases: list[Row] = [
            {**row, "lease_until": now + self._lease_ms, "started_at": self._started_at[job_id]}
            for job_id, row in self._leases.items()
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
            case JobStarted():
                self._leases[job_id] = {
                    "job_id": job_id,
                    "attempt": event.attempt,
                    "miner_id": event.miner_id,
                    "session_id": event.session_id,
                    "traceparent": recorded.metadata.traceparent,
                }
                self._started_at[job_id] = event.at
            case JobAttemptEnded() | JobCompleted() | JobFailed() | JobCanceled() | JobExpired():
                self._leases.pop(job_id, None)
                self._started_at.pop(job_id, None)
            case JobSubmitted() | JobRequeued():
                pass  # a queued job has no lease
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
