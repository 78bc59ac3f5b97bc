"""The dispatcher's tables: open jobs with their holders, the classes of these jobs, the miners' sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, assert_never, get_args

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.dispatch.retries import add_try
from coordinator.application.dispatch.unstored import submitted_work
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
from coordinator.domain.matching.needs import Needs
from coordinator.domain.messages import Event
from coordinator.domain.miner import (
    MinerDrained,
    MinerEvent,
    MinerLeft,
    MinerLost,
    MinerRegistered,
    is_miner_event,
)
from coordinator.domain.standing import StandingEvent, is_standing_event
from coordinator.projections.derived.port import StoredRows, compare
from coordinator.projections.derived.standings import Standings

OPEN, CLASSES, SESSIONS, STANDINGS = "open_work", "work_classes", "work_sessions", "standings"


class OpenWorkTables:
    """See the module. Memory grows with the open jobs and the miners."""

    follower: ClassVar[str] = "dispatcher"
    events: ClassVar[tuple[type[Event], ...]] = (
        *get_args(JobEvent),
        *get_args(MinerEvent),
        *get_args(StandingEvent),
    )
    statements: ClassVar[Mapping[str, str]] = {
        OPEN: "derived_open_work",
        CLASSES: "derived_work_classes",
        SESSIONS: "derived_work_sessions",
        STANDINGS: "dispatch_standings",
    }

    def __init__(self) -> None:
        self._open: dict[str, QueuedWork] = {}
        self._starts: dict[str, JobStarted] = {}
        """By running job: the start of its attempt, which names its holder."""
        self._classes: dict[str, tuple[str, Needs]] = {}
        """Service and needs of each class that the log names."""
        self._sessions: dict[str, dict[str, Any]] = {}
        self._standings = Standings()

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        if is_job_event(event):
            self._take_job(recorded, event)
        elif is_miner_event(event):
            self._take_miner(event)
            self._standings.note_miner(event)
        elif is_standing_event(event):
            self._standings.note_quarantine(event)

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        match table:
            case "open_work":
                return str(row["job_id"])
            case "work_classes":
                return str(row["job_class"])
            case "work_sessions":
                return str(row["miner_id"])
            case _:
                return self._standings.key_of(row)

    def differences(self, stored: StoredRows) -> Iterator[str]:
        yield from compare(OPEN, self._rows(), stored[OPEN])
        yield from self._class_differences(stored[CLASSES])
        gone = {m for m, row in self._sessions.items() if row["state"] == "OFFLINE"} - stored[SESSIONS].keys()
        sessions = {miner: row for miner, row in self._sessions.items() if miner not in gone}
        yield from compare(SESSIONS, sessions, stored[SESSIONS])
        yield from self._standings.differences(stored[STANDINGS])

    def write(self, tables: Tables) -> None:
        for table in (OPEN, CLASSES, SESSIONS, STANDINGS):
            tables.execute(f"derived_clear_{table}")
        tables.put(OPEN, list(self._rows().values()))
        tables.put(CLASSES, list(self._class_rows().values()))
        tables.put(SESSIONS, list(self._sessions.values()))
        tables.put(STANDINGS, self._standings.rows())

    def _rows(self) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for job_id, work in self._open.items():
            start = self._starts.get(job_id)
            held = (None, None) if start is None else (start.miner_id, start.session_id)
            rows[job_id] = {**work._asdict(), "miner_id": held[0], "session_id": held[1]}
        return rows

    def _class_differences(self, stored: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """A class without open jobs may stay in the table, and may be gone."""
        used = self._class_rows()
        for name in sorted(used.keys() | stored.keys()):
            known, row = self._classes.get(name), stored.get(name)
            if known is None:
                yield f"{CLASSES} {name}: the table has it, the log does not"
            elif row is None:
                yield f"{CLASSES} {name}: the log has it, the table does not"
            elif (row["service"], Needs.model_validate_json(row["constraints_json"])) != known:
                yield f"{CLASSES} {name}: differs from the log"

    def _class_rows(self) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for work in self._open.values():
            service, needs = self._classes[work.job_class]
            rows[work.job_class] = {
                "job_class": work.job_class,
                "service": service,
                "constraints_json": needs.model_dump_json(exclude_none=True),
            }
        return rows

    def _take_job(self, recorded: Recorded, event: JobEvent) -> None:
        job_id = recorded.key
        match event:
            case JobSubmitted():
                self._open[job_id] = submitted_work(event, recorded)
                if event.job_class not in self._classes:
                    needs = Needs(**dict(event.constraints), list_price=event.list_price, unit=event.unit)
                    self._classes[event.job_class] = (event.service, needs)
            case JobStarted():
                self._starts[job_id] = event
            case JobCompleted():
                self._standings.note_completed(event, *self._end(job_id))
            case JobRequeued():
                work = self._open[job_id]
                self._open[job_id] = work._replace(attempt=event.attempt, position=recorded.position)
                self._starts.pop(job_id, None)
            case JobAttemptEnded():
                outcome = "too_slow" if event.error_code == "TOO_SLOW" else event.outcome
                work = self._open[job_id]
                tried = work._replace(tried=add_try(work.tried, outcome, event.miner_id))
                self._open[job_id] = tried
                self._standings.note_ended(event, outcome, tried)
            case JobFailed() | JobCanceled() | JobExpired():
                self._standings.note_no_verdict(self._end(job_id)[0])
            case _:
                assert_never(event)

    def _end(self, job_id: str) -> tuple[QueuedWork | None, JobStarted | None]:
        """Remove a job that is final; returns its work, and the start of its attempt if it was running."""
        return self._open.pop(job_id, None), self._starts.pop(job_id, None)

    def _take_miner(self, event: MinerEvent) -> None:
        match event:
            case MinerRegistered():
                self._sessions[event.miner_id] = {
                    "miner_id": event.miner_id,
                    "session_id": event.session_id,
                    "profile": event.profile,
                    "capabilities_json": event.capabilities.model_dump_json(exclude_none=True),
                    "concurrency": event.concurrency,
                    "state": "ONLINE",
                }
            case MinerDrained():
                self._sessions[event.miner_id]["state"] = "DRAINING"
            case MinerLeft() | MinerLost():
                self._sessions[event.miner_id]["state"] = "OFFLINE"
            case _:
                assert_never(event)
