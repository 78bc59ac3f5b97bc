"""The rows of jobs from their states in memory, equal to those that the projector writes."""

from __future__ import annotations

from typing import Any, Final

from coordinator.domain.job import STATE_NAMES, Completed, Queued, Running
from coordinator.edge.state.tables.rows import JobRow

_NOT_BEGUN: Final[dict[str, Any]] = {"miner_id": None, "started_at": None}
_NOT_OVER: Final[dict[str, Any]] = {"finished_at": None, "result_digest": None, "units": None, "price": None}


def row_of_state(state: object, position: int) -> JobRow | None:
    """The row of a job in this state, whose last event is at `position`.

    None for a job that ended without a result: its state does not tell all of its row. Only content of final
    jobs is erased, and a state does not tell of it.
    """
    match state:
        case Queued():
            moved = {"attempt": state.attempt, **_NOT_BEGUN, **_NOT_OVER}
        case Running():
            started = state.started
            moved = {
                "attempt": started.attempt,
                "miner_id": started.miner_id,
                "started_at": started.at,
                **_NOT_OVER,
            }
        case Completed():
            completed = state.completed
            moved = {
                "attempt": completed.attempt,
                "miner_id": completed.miner_id,
                "started_at": state.claimed_at,
                "finished_at": completed.at,
                "result_digest": completed.result_digest,
                "units": str(completed.units),
                "price": str(completed.price),
            }
        case _:
            return None
    job = state.job
    return JobRow(
        job_id=str(job.job_id),
        client=job.client,
        service=job.service,
        service_version=job.service_version,
        state=STATE_NAMES[type(state)],
        constraints_json=job.constraints.model_dump_json(exclude_defaults=True),
        priority=job.priority,
        max_attempts=job.max_attempts,
        requested_at=job.at,
        expires_at=job.expires_at,
        error_code=None,
        error_message=None,
        hold=job.hold,
        payload_digest=job.payload_digest,
        position=position,
        payload_erased=None,
        result_erased=None,
        **moved,
    )
