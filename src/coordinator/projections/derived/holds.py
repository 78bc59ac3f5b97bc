"""The settler's table: holds that are not settled, and where their jobs have ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from coordinator.application.ports import Recorded, Tables
from coordinator.domain.account import PaymentsSettled
from coordinator.domain.job import JobSubmitted, ends_job
from coordinator.projections.derived.port import StoredRows, compare

HOLDS = "open_holds"


class HoldTables:
    """See the module."""

    follower: ClassVar[str] = "settler"
    statements: ClassVar[Mapping[str, str]] = {HOLDS: "derived_open_holds"}

    def __init__(self) -> None:
        self._holds: dict[str, dict[str, Any]] = {}
        self.any_money = False
        """Whether the log has a hold: without money the settler does not run, and has no position."""

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        if isinstance(event, JobSubmitted):
            if event.hold:
                self.any_money = True
                self._holds[recorded.key] = {
                    "job_id": recorded.key,
                    "client": event.client,
                    "amount": event.hold,
                    "held_at": event.at,
                    "ended": 0,
                }
        elif ends_job(event):
            if recorded.key in self._holds:
                self._holds[recorded.key]["ended"] = recorded.position
        elif isinstance(event, PaymentsSettled):
            for job_id in event.jobs:
                self._holds.pop(str(job_id), None)

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        return str(row["job_id"])

    def differences(self, stored: StoredRows) -> Iterator[str]:
        yield from compare(HOLDS, self._holds, stored[HOLDS])

    def write(self, tables: Tables) -> None:
        tables.execute("derived_clear_open_holds")
        tables.put(HOLDS, list(self._holds.values()))
