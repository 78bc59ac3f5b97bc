"""The read model `payments`: one row per settled job, which never changes."""

from __future__ import annotations

from typing import Any

from coordinator.application.ports import Recorded, Row
from coordinator.domain.account import PaymentsSettled

TABLE = "payments"
KEY = "job_id"
EVENTS = (PaymentsSettled,)


def rows(recorded: Recorded) -> list[tuple[str, Row]]:
    """The rows that this event makes, with their keys: the paid jobs first."""
    event = recorded.event
    assert isinstance(event, PaymentsSettled)
    common: dict[str, Any] = {
        "number": event.number,
        "available_at": event.available_at,
        "settled_at": event.at,
        "position": recorded.position,
        "kept_until": None,
    }
    made: list[tuple[str, Row]] = []
    for place, payment in enumerate(event.payments):
        job_id = str(payment.job_id)
        made.append(
            (
                job_id,
                {
                    "job_id": job_id,
                    "place": place,
                    "client": payment.client,
                    "miner": payment.miner,
                    "attempt": payment.attempt,
                    "amount": payment.amount,
                    "fee": payment.fee,
                    "units": payment.units,
                    "unit_type": payment.unit_type,
                    **common,
                },
            )
        )
    nothing: dict[str, Any] = dict.fromkeys(("miner", "attempt", "units", "unit_type"))
    for place, unpaid in enumerate(event.unpaid, len(made)):
        job_id = str(unpaid.job_id)
        row = {"job_id": job_id, "place": place, "client": unpaid.client, "amount": 0, "fee": 0}
        made.append((job_id, {**row, **nothing, **common}))
    for place, kept in enumerate(event.kept, len(made)):
        job_id = str(kept.job_id)
        row = {"job_id": job_id, "place": place, "client": kept.client, "amount": 0, "fee": 0}
        held = {"kept_until": event.kept_until}
        made.append((job_id, {**row, **nothing, **common, **held}))
    return made
