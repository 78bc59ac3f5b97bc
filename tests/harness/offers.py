"""Offers of jobs that are never run."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from coordinator.wire.offers import Offer


def an_offer(**fields: Any) -> Offer:
    """An offer of a job of its own, but for these fields."""
    known = {
        "job_id": uuid4(),
        "attempt": 1,
        "service": "checksum",
        "payload": {},
        "payload_salt": "00" * 16,
        "payload_digest": "00" * 32,
        "timeout_seconds": 60,
        "expires_at": 1_800_000_000_000,
    }
    return Offer.model_validate({**known, **fields})
