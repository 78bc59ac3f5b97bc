"""The read model `jobs`: one row per job, for its client and the dashboards."""

from __future__ import annotations

from typing import Any, assert_never, get_args

from coordinator.application.ports import Recorded, Row
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
    error_of,
    is_job_event,
    state_after,
)
from coordinator.domain.matching.needs import Constraints

TABLE = "jobs"
KEY = "job_id"
EVENTS = get_args(JobEvent)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event changes."""
    return recorded.key


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them, with the key, if it creates the row."""
    event = recorded.event
    assert is_job_event(event)
    row, state = _change(recorded, event), state_after(event)
    if state is not None:
        row["state"] = state
    row["position"] = recorded.position
    return row


def _change(recorded: Recorded, event: JobEvent) -> dict[str, Any]:
    match event:
        case JobSubmitted():
            return {
                "job_id": recorded.key,
                "client": event.client,
                "service": event.service,
                "service_version": event.service_version,
                "constraints_json": _dumped(event.constraints),
                "priority": event.priority,
                "attempt": 1,
                "max_attempts": event.max_attempts,
                "miner_id": None,
                "requested_at": event.at,
                "started_at": None,
                "finished_at": None,
                "expires_at": event.expires_at,
                "hold": event.hold,
                "error_code": None,
                "error_message": None,
                "payload_digest": event.payload_digest,
                "result_digest": None,
                "units": None,
                "price": None,
            }
        case JobStarted():
            return {"attempt": event.attempt, "miner_id": event.miner_id, "started_at": event.at}
        case JobCompleted():
            return {
                "finished_at": event.at,
                "result_digest": event.result_digest,
                "units": event.units,
                "price": event.price,
            }
        case JobRequeued():
            return {"attempt": event.attempt, "miner_id": None, "started_at": None}
        case JobFailed() | JobExpired():
            error = error_of(event)
            return {"finished_at": event.at, "error_code": error.code, "error_message": error.message}
        case JobCanceled():
            error = error_of(event)
            return {"finished_at": event.at, "error_code": error.code, "error_message": error.message or None}
        case JobAttemptEnded():
            return {}
        case _:
            assert_never(event)


def _dumped(constraints: Constraints) -> str:
    # The serializer itself instead of model_dump_json: half the time.
    return constraints.__pydantic_serializer__.to_json(constraints, exclude_defaults=True).decode()
