"""The stored bytes of each name, and what was erased.

Two followers write the table of stored bytes: `usage` adds the bytes of events, and `eraser` gives back those
of erased content, each up to its own position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from coordinator.application.ports import EventLog, Recorded, Row, Tables
from coordinator.domain.content import ContentErased
from coordinator.domain.job import JobCompleted, JobSubmitted
from coordinator.domain.messages import Event
from coordinator.projections.derived.port import StoredRows, compare

ERASED, USAGE = "erased_content", "quota_usage"


class ErasureTables:
    """What the log says is erased."""

    follower: ClassVar[str] = "eraser"
    events: ClassVar[tuple[type[Event], ...]] = (ContentErased,)
    statements: ClassVar[Mapping[str, str]] = {ERASED: "derived_erased_content"}

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._erased: dict[str, dict[str, Any]] = {}
        self.freed: Counter[str] = Counter()
        """By client: the bytes that erasures gave back."""

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        if not isinstance(event, ContentErased):
            return
        for history in self._log.load(event.jobs).values():
            for of_job in history:
                match of_job.event:
                    case JobSubmitted() as submitted if "payload" in event.kinds:
                        self._erase(
                            of_job.key, "payload", submitted.client, submitted.payload_bytes, recorded
                        )
                    case JobCompleted() as completed if "result" in event.kinds:
                        self._erase(of_job.key, "result", completed.client, completed.result_bytes, recorded)

    def _erase(self, job_id: str, kind: str, client: str, size: int, recorded: Recorded) -> None:
        key = f"{job_id}/{kind}"
        if key not in self._erased:
            self._erased[key] = {"key": key, "position": recorded.position}
            self.freed[client] += size

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        return str(row["key"])

    def differences(self, stored: StoredRows) -> Iterator[str]:
        yield from compare(ERASED, self._erased, stored[ERASED])

    def write(self, tables: Tables) -> None:
        tables.execute("derived_clear_erased_content")
        tables.put(ERASED, list(self._erased.values()))


class UsageTables:
    """The stored bytes of each name; those of its uploads follow from the owners' table."""

    follower: ClassVar[str] = "usage"
    events: ClassVar[tuple[type[Event], ...]] = (JobSubmitted, JobCompleted)
    statements: ClassVar[Mapping[str, str]] = {USAGE: "derived_usage"}

    def __init__(self, erasures: ErasureTables) -> None:
        self._erasures = erasures
        self._added: Counter[str] = Counter()

    def take(self, recorded: Recorded) -> None:
        match recorded.event:
            case JobSubmitted() as event:
                self._added[event.client] += event.payload_bytes
            case JobCompleted() as event:
                self._added[event.client] += event.result_bytes

    def key_of(self, table: str, row: Mapping[str, Any]) -> str:
        return str(row["name"])

    def differences(self, stored: StoredRows) -> Iterator[str]:
        rows, payloads = stored[USAGE], self._payload_bytes()
        for name in sorted(rows.keys() | payloads.keys()):
            row = rows.get(name, {"payload_bytes": 0, "blob_bytes": 0, "owned_bytes": 0})
            if row["payload_bytes"] != payloads[name]:
                yield f"{USAGE} {name}: {row['payload_bytes']} bytes of payloads, by the log {payloads[name]}"
            if row["blob_bytes"] != row["owned_bytes"]:
                found, owned = row["blob_bytes"], row["owned_bytes"]
                yield f"{USAGE} {name}: {found} bytes of uploads, by their rows {owned}"

    def write(self, tables: Tables) -> None:
        owned = {row["name"]: row["owned_bytes"] for row in tables.query("derived_owned_bytes")}
        payloads = self._payload_bytes()
        rows: list[Row] = [
            {"name": name, "payload_bytes": payloads[name], "blob_bytes": owned.get(name, 0)}
            for name in sorted(payloads.keys() | owned.keys())
        ]
        tables.execute("derived_clear_quota_usage")
        tables.put(USAGE, rows)

    def _payload_bytes(self) -> Counter[str]:
        left = Counter(self._added)
        left.subtract(self._erasures.freed)
        return left
