"""The read model `contested_payments`: one row per payment that changed since its settlement."""

from __future__ import annotations

from typing import assert_never, get_args

from coordinator.application.ports import Recorded, Row
from coordinator.domain.account import (
    PaymentBilled,
    PaymentDismissed,
    PaymentDisputed,
    PaymentEvent,
    PaymentLapsed,
    PaymentRefunded,
    is_payment_event,
)

TABLE = "contested_payments"
KEY = "job_id"
EVENTS = get_args(PaymentEvent)


def key_of(recorded: Recorded) -> str:
    """The key of the row that this event sets."""
    assert is_payment_event(recorded.event)
    return str(recorded.event.job_id)


def columns(recorded: Recorded) -> Row:
    """The columns that this event sets: all of them."""
    event = recorded.event
    assert is_payment_event(event)
    match event:
        case PaymentBilled():
            status, frozen = "BILLED", False
        case PaymentLapsed():
            status, frozen = "LAPSED", False
        case PaymentDisputed():
            status, frozen = "DISPUTED", True
        case PaymentDismissed():
            status, frozen = "DISMISSED", False
        case PaymentRefunded():
            status, frozen = "REFUNDED", event.disputed
        case _:
            assert_never(event)
    return {
        "job_id": str(event.job_id),
        "client": event.client,
        "miner": event.miner,
        "amount": event.amount,
        "credit": event.credit,
        "available_at": event.available_at,
        "status": status,
        "frozen": int(frozen),
        "changed_at": event.at,
        "position": recorded.position,
    }
