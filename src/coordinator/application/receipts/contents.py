"""The content of a receipt, and of its promise: a function of the job's events, without any signature."""

from __future__ import annotations

from typing import Any

from coordinator.crypto.receipt import STATEMENT_MEMBER, receipt_id
from coordinator.domain.job import Completed, statement_of
from coordinator.domain.matching.units import UNIT_TYPES


def promise_content(state: Completed) -> dict[str, Any]:
    """The receipt without the miner's statement, which the miner has itself. Times are Unix seconds."""
    job, completed = state.job, state.completed
    job_id = str(job.job_id)
    metadata: dict[str, Any] = {
        "attempt": completed.attempt,
        "service": job.service,
        "payload_digest": job.payload_digest,
        "result_digest": completed.result_digest,
    }
    if completed.measured_units is not None:
        metadata["measured_units"] = completed.measured_units
    return {
        "version": "1.0",
        "receipt_id": receipt_id(job_id, completed.attempt),
        "job_id": job_id,
        "provider": completed.miner_id,
        "client": job.client,
        "units": completed.units,
        "unit_type": UNIT_TYPES[job.unit],
        "price": completed.price,
        "started_at": completed.started_at // 1000,
        "completed_at": completed.completed_at // 1000,
        "metadata": metadata,
    }


def receipt_content(state: Completed, *, recorded_under: str | None = None) -> dict[str, Any]:
    """The whole receipt. `recorded_under`: the key of its time, if another one signs."""
    content = promise_content(state)
    content["metadata"][STATEMENT_MEMBER] = statement_of(state.job, state.completed)
    if recorded_under is not None:
        content["metadata"]["recorded_under"] = recorded_under
    return content
