"""The read models, as the auditor computes them, and their comparison with the tables, row by row.

A job's row is compared when the job is final, and then forgotten: memory follows from the open jobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Final, NamedTuple

from coordinator.audit.checks import check_payload
from coordinator.audit.content import StoredContent
from coordinator.audit.entries import Divergence, Tables
from coordinator.audit.jobs import FINALS, Event, Job

PIECE: Final = 500
POSITION: Final = attrgetter("position")
_OWN_ERRORS: Final = {"job.expired.v1": ("EXPIRED", "the job's time to live was over")}
KEYS: Final = {
    "jobs": "job_id",
    "miners": "miner_id",
    "services": "service",
    "api_keys": "key_id",
    "quotas": "name",
    "webhooks": "webhook_id",
    "accounts": "party",
}
"""The key column of each read model."""


class Row(NamedTuple):
    """A row that the table should have."""

    table: str
    key: str
    columns: dict[str, Any]


# --- jobs --------------------------------------------------------------------------------------------------
def move_job_row(job: Job, topic: str, event: Event, position: int) -> None:
    """Change the row of a job by its next event."""
    row = job.row
    if topic == "job.submitted.v1":
        row.update(
            job_id=event["job_id"],
            client=event["client"],
            service=event["service"],
            service_version=event["service_version"],
            state="QUEUED",
            constraints_json=event["constraints"],
            priority=event["priority"],
            attempt=1,
            max_attempts=event["max_attempts"],
            miner_id=None,
            requested_at=event["at"],
            started_at=None,
            finished_at=None,
            expires_at=event["expires_at"],
            error_code=None,
            error_message=None,
            payload_digest=event["payload_digest"],
            result_digest=None,
            units=None,
            price=None,
        )
    elif topic == "job.started.v1":
        row.update(
            state="RUNNING", attempt=event["attempt"], miner_id=event["miner_id"], started_at=event["at"]
        )
    elif topic == "job.requeued.v1":
        row.update(state="QUEUED", attempt=event["attempt"], miner_id=None, started_at=None)
    elif topic == "job.completed.v1":
        row.update(result_digest=event["result_digest"], units=event["units"], price=event["price"])
    elif topic == "job.failed.v1":
        row.update(error_code=event["error_code"], error_message=event["error_message"])
    elif topic == "job.canceled.v1":
        row.update(error_code="CANCELED", error_message=event["reason"] or None)
    elif topic == "job.expired.v1":
        row["error_code"], row["error_message"] = _OWN_ERRORS[topic]
    if topic in FINALS:
        row.update(state=FINALS[topic], finished_at=event["at"])
    row["position"] = position


# --- the others --------------------------------------------------------------------------------------------
def move_other_row(
    rows: dict[str, dict[str, dict[str, Any]]], topic: str, event: Event, position: int
) -> None:
    """Change a row of another read model; `rows`: by table and key."""
    match topic:
        case "miner.registered.v1":
            rows["miners"][event["miner_id"]] = {
                "miner_id": event["miner_id"],
                "session_id": event["session_id"],
                "state": "ONLINE",
                "profile": event["profile"],
                "capabilities_json": event["capabilities"],
                "concurrency": event["concurrency"],
                "public_key": event["public_key"],
                "registered_at": event["at"],
                "changed_at": event["at"],
                "position": position,
            }
        case "miner.drained.v1" | "miner.left.v1" | "miner.lost.v1":
            state = "DRAINING" if topic == "miner.drained.v1" else "OFFLINE"
            rows["miners"][event["miner_id"]].update(state=state, changed_at=event["at"], position=position)
        case "service.registered.v1" | "service.revised.v1":
            spec = event["spec"]
            rows["services"][spec["id"]] = {
                "service": spec["id"],
                "version": event.get("version", 1),
                "retired": 0,
                "category": spec["category"],
                "spec_json": spec,
                "position": position,
            }
        case "service.retired.v1":
            rows["services"][event["service"]].update(retired=1, position=position)
        case "key.created.v1":
            rows["api_keys"][event["key_id"]] = {
                **{name: event[name] for name in ("key_id", "name", "role", "label", "expires_at")},
                "signed": int(event["signed"]),
                "generation": 1,
                "created_at": event["at"],
                "created_by": event["by"],
                "rotated_at": None,
                "old_until": None,
                "revoked_at": None,
                "revoked_by": None,
                "reason": None,
                "position": position,
            }
        case "key.rotated.v1":
            rows["api_keys"][event["key_id"]].update(
                generation=event["generation"],
                rotated_at=event["at"],
                old_until=event["old_until"],
                position=position,
            )
        case "key.revoked.v1":
            rows["api_keys"][event["key_id"]].update(
                revoked_at=event["at"], revoked_by=event["by"], reason=event["reason"], position=position
            )
        case "webhook.created.v1" | "webhook.changed.v1":
            row = rows["webhooks"].setdefault(
                event["webhook_id"],
                {
                    **{name: event.get(name) for name in ("webhook_id", "owner", "role")},
                    "enabled": 1,
                    "generation": 1,
                    "old_until": None,
                    "created_at": event["at"],
                    "removed_at": None,
                },
            )
            row.update(
                {name: event[name] for name in ("host", "sealed_url", "label")},
                events=" ".join(event["events"]),
                enabled=int(event.get("enabled", True)),
                disabled_reason="",
                changed_at=event["at"],
                position=position,
            )
        case "webhook.disabled.v1":
            rows["webhooks"][event["webhook_id"]].update(
                enabled=0, disabled_reason=event["reason"], changed_at=event["at"], position=position
            )
        case "webhook.rotated.v1":
            rows["webhooks"][event["webhook_id"]].update(
                generation=event["generation"],
                old_until=event["old_until"],
                changed_at=event["at"],
                position=position,
            )
        case "webhook.removed.v1":
            rows["webhooks"][event["webhook_id"]].update(
                sealed_url="", removed_at=event["at"], changed_at=event["at"], position=position
            )
        case _ if topic.startswith("account."):
            told = ("party", "balance", "held", "disputed")
            rows["accounts"][event["party"]] = {
                **{name: event[name] for name in told},
                "changed_at": event["at"],
                "position": position,
            }
        case "quota.was_set.v1":
            rows["quotas"][event["name"]] = {
                "name": event["name"],
                "limits_json": event["limits"],
                "changed_at": event["at"],
                "changed_by": event["by"],
                "reason": event["reason"],
                "position": position,
            }


# --- comparison --------------------------------------------------------------------------------------------
class RowChecks:
    """Compares rows with the tables, in pieces."""

    def __init__(self, tables: Tables, *, content: bool = True) -> None:
        """`content`: whether payloads and results should be there; a copy of the log alone has none."""
        self._tables = tables
        self.content = StoredContent(tables) if content else None
        self.upto = tables.projected()
        """The position that the read models have reached: later events are not in them."""
        self._final: list[dict[str, Any]] = []
        self.compared = 0

    def final(self, row: dict[str, Any]) -> Divergence | None:
        """Compare the row of a job that is final, now or with the next piece."""
        self._final.append(row)
        return self.flush() if len(self._final) >= PIECE else None

    def flush(self) -> Divergence | None:
        """Compare all rows that wait; the first divergence."""
        rows, self._final = self._final, []
        found = list(self._compare_jobs(rows))
        return min(found, default=None, key=POSITION)

    def open_jobs(self, jobs: list[Job]) -> Divergence | None:
        """Compare the rows of the jobs that are open at `upto`."""
        found: list[Divergence] = []
        for start in range(0, len(jobs), PIECE):
            found += self._compare_jobs([job.row for job in jobs[start : start + PIECE]])
        return min(found, default=None, key=POSITION)

    def others(self, rows: dict[str, dict[str, dict[str, Any]]]) -> Divergence | None:
        """Compare all rows of the other read models, which are few."""
        found = []
        for table, wanted in rows.items():
            key = KEYS[table]
            stored = self._tables.rows(table, key, list(wanted))
            for name, row in wanted.items():
                # The expiry removes miners that have been offline for long.
                if name not in stored and table == "miners" and row["state"] == "OFFLINE":
                    continue
                if divergence := self._compare(Row(table, name, row), stored.get(name)):
                    found.append(divergence)
            extra = [name for name in self._tables.keys(table, key) if name not in wanted]
            found += [
                Divergence(self.upto, "row", f"{table} {name}: the log does not have it") for name in extra
            ]
        return min(found, default=None, key=POSITION)

    def counted(self, jobs: int) -> Divergence | None:
        """Whether the table of jobs has exactly this number of rows."""
        count = self._tables.count("jobs")
        if count == jobs:
            return None
        return Divergence(self.upto, "row", "jobs: the table has another number of rows", jobs, count)

    def _compare_jobs(self, rows: list[dict[str, Any]]) -> Iterator[Divergence]:
        if not rows:
            return
        ids = [row["job_id"] for row in rows]
        stored = self._tables.rows("jobs", "job_id", ids)
        for row in rows:
            if divergence := self._compare(Row("jobs", row["job_id"], row), stored.get(row["job_id"])):
                yield divergence
        by_id = {row["job_id"]: row for row in rows}
        payloads = self._tables.payloads(ids)
        if self.content is not None:
            self.content.compared(rows, payloads)
        for payload in payloads:
            row = by_id[payload.job_id]
            digest = row["payload_digest" if payload.kind == "payload" else "result_digest"]
            if digest is None:
                yield Divergence(
                    row["position"], "payload", f"job {payload.job_id} has a result and no digest of it"
                )
            elif (other := check_payload(payload, digest)) is not None:
                detail = f"the stored {payload.kind} of job {payload.job_id} is not the one of the log"
                yield Divergence(row["position"], "payload", detail, digest, other)

    def _compare(self, row: Row, stored: dict[str, Any] | None) -> Divergence | None:
        self.compared += 1
        position = row.columns["position"]
        if stored is None:
            return Divergence(position, "row", f"{row.table} {row.key}: the table does not have it")
        for name, value in row.columns.items():
            is_json = name.endswith("_json")
            wanted = _compact(value) if is_json else value
            have = _read(stored.get(name)) if is_json else stored.get(name)
            if wanted != have:
                return Divergence(position, "row", f"{row.table} {row.key}: {name} differs", wanted, have)
        return None


def _read(text: Any) -> Any:
    try:
        return _compact(json.loads(text))
    except (TypeError, ValueError, RecursionError):
        return text


def _compact(value: Any) -> Any:
    """Without nulls and empty lists: the tables leave out members that have their default."""
    if isinstance(value, dict):
        kept = {name: _compact(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner not in (None, [], {})}
    return [_compact(inner) for inner in value] if isinstance(value, list) else value
