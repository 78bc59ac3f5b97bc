"""The read model `receipts`: the price of each completed job. The signed receipt itself is in the log."""

from __future__ import annotations

from coordinator.application.ports import Recorded, Row
from coordinator.domain.job import JobCompleted

TABLE = "receipts"
KEY = "job_id"
EVENTS = (JobCompleted,)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event changes."""
    return recorded.key


def columns(recorded: Recorded) -> Row:
    """The whole row: a receipt is made once. `position` is the receipt's place in the log."""
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
        "position": recorded.position,
    }
