"""The log as an outsider reads it: plain SQL and JSON, none of the product's code."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

FINAL_TOPICS = {
    "job.completed.v1": "COMPLETED",
    "job.failed.v1": "FAILED",
    "job.canceled.v1": "CANCELED",
    "job.expired.v1": "EXPIRED",
}


class Entry(NamedTuple):
    """One event."""

    position: int
    stream: UUID
    version: int
    topic: str
    data: dict[str, Any]
    metadata: dict[str, str]


class Logbook:
    """`source`: a Postgres url, or the SQLite file. Opens a connection for each question."""

    def __init__(self, source: str | Path) -> None:
        self.source = source

    @property
    def is_sqlite(self) -> bool:
        return isinstance(self.source, Path)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """`?` stands for a value."""
        if isinstance(self.source, Path):
            connection = sqlite3.connect(f"file:{self.source}?mode=ro", uri=True, timeout=10)
            try:
                return connection.execute(sql, values).fetchall()
            finally:
                connection.close()
        with psycopg.connect(self.source, autocommit=True, connect_timeout=5) as postgres:
            return postgres.execute(sql.replace("?", "%s"), values).fetchall()

    def column(self, sql: str, *values: object) -> list[Any]:
        return [row[0] for row in self.rows(sql, *values)]

    def entries(self, *topics: str, job_id: str | None = None) -> list[Entry]:
        """Events in the log's order: of these types (all where none is given), of this job."""
        place = "rowid" if self.is_sqlite else "notification_id"
        columns = f"{place}, originator_id, originator_version, topic, state, metadata"
        found = self.rows(f"SELECT {columns} FROM stored_events ORDER BY {place}")
        entries = [
            Entry(
                position,
                UUID(str(stream)),
                version,
                topic,
                json.loads(bytes(state)),
                json.loads(bytes(metadata)),
            )
            for position, stream, version, topic, state, metadata in found
        ]
        return [
            e
            for e in entries
            if (not topics or e.topic in topics) and (job_id is None or e.data.get("job_id") == job_id)
        ]

    def topics(self, job_id: str) -> list[str]:
        """What happened to a job, in short: `["job.submitted", "job.started", …]`."""
        return [e.topic.rpartition(".")[0] for e in self.entries(job_id=job_id)]

    def count(self, topic: str) -> int:
        return int(self.column("SELECT count(*) FROM stored_events WHERE topic = ?", topic)[0])

    def ended(self) -> dict[str, str]:
        """The final state of every job that has one."""
        return {e.data["job_id"]: FINAL_TOPICS[e.topic] for e in self.entries(*FINAL_TOPICS)}

    def all_ended(self, job_ids: Collection[str]) -> bool:
        marks = ", ".join("?" * len(FINAL_TOPICS))
        sql = f"SELECT count(*) FROM stored_events WHERE topic IN ({marks})"
        if self.column(sql, *FINAL_TOPICS)[0] < len(set(job_ids)):
            return False
        return set(job_ids) <= self.ended().keys()

    def head(self) -> int:
        place = "rowid" if self.is_sqlite else "notification_id"
        return int(self.column(f"SELECT coalesce(max({place}), 0) FROM stored_events")[0])

    def positions(self) -> dict[str, int]:
        """How far each follower is."""
        return dict(self.rows("SELECT follower, position FROM positions"))

    def payloads(self) -> Sequence[tuple[str, str, bytes, bytes]]:
        """(job, kind, salt, body)"""
        found = self.rows("SELECT job_id, kind, salt, body FROM payloads")
        return [(str(UUID(str(job))), kind, bytes(salt), bytes(body)) for job, kind, salt, body in found]
