"""The read model `jobs`: one row a job, as its client and the dashboards see it."""

from __future__ import annotations

from typing import Any

from coordinator.application.ports import Recorded, Row
from coordinator.domain.job import (
    JobCanceled,
    JobCompleted,
    JobEvent,
    JobExpired,
    JobFailed,
    JobRequeued,
    JobStarted,
    JobSubmitted,
)
from coordinator.domain.messages import Event

TABLE = "jobs"
KEY = "job_id"
EVENTS = (JobEvent,)


def key_of(recorded: Recorded) -> str:
    """Which row this event changes."""
    return recorded.key


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets; all of them, the key included, where it makes the row."""
    event = recorded.event
    if isinstance(event, JobSubmitted):
        return {
            "job_id": recorded.key,
            "client": event.client,
            "service": event.service,
            "service_version": event.service_version,
            "state": "QUEUED",
            "constraints_json": event.constraints.model_dump_json(exclude_defaults=True),
            "priority": event.priority,
            "attempt": 1,
            "max_attempts": event.max_attempts,
            "miner_id": None,
            "requested_at": event.at,
            "started_at": None,
            "finished_at": None,
            "expires_at": event.expires_at,
            "error_code": None,
            "error_message": None,
            "payload_digest": event.payload_digest,
            "result_digest": None,
            "position": recorded.position,
        }
    return {**_change(event), "position": recorded.position}


def _change(event: Event) -> dict[str, Any]:
    match event:
        case JobStarted():
            return {
                "state": "RUNNING",
                "attempt": event.attempt,
                "miner_id": event.miner_id,
                "started_at": event.at,
            }
        case JobRequeued():
            return {"state": "QUEUED", "attempt": event.attempt, "miner_id": None, "started_at": None}
        case JobCompleted():
            return {"state": "COMPLETED", "finished_at": event.at, "result_digest": event.result_digest}
        case JobFailed():
            return {
                "state": "FAILED",
                "finished_at": event.at,
                "error_code": event.error_code,
                "error_message": event.error_message,
            }
        case JobCanceled():
            return {
                "state": "CANCELED",
                "finished_at": event.at,
                "error_code": "CANCELED",
                "error_message": event.reason or None,
            }
        case JobExpired():
            return {
                "state": "EXPIRED",
                "finished_at": event.at,
                "error_code": "EXPIRED",
                "error_message": "its time to live was over",
            }
    return {}
