"""The read model `receipts`: the signed receipt of each completed job."""

from __future__ import annotations

from pydantic_core import to_json

from coordinator.application.ports import Recorded, Row
from coordinator.domain.job import JobCompleted

TABLE = "receipts"
KEY = "job_id"
EVENTS = (JobCompleted,)


def key_of(recorded: Recorded) -> str:
    """Which row this event changes."""
    return recorded.key


def columns(recorded: Recorded) -> Row:
    """The whole row: a receipt is made once."""
    event = recorded.event
    assert isinstance(event, JobCompleted)
    return {
        "job_id": recorded.key,
        "receipt_id": event.receipt["receipt_id"],
        "attempt": event.attempt,
        "client": event.client,
        "miner_id": event.miner_id,
        "units": event.receipt["units"],
        "price": event.receipt["price"],
        "completed_at": event.at,
        "receipt_json": to_json(event.receipt).decode(),
        "position": recorded.position,
    }
