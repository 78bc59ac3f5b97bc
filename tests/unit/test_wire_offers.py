"""Offers as a miner reads them."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.wire.offers import BadOffer, Offer, read_offer
from tests.harness.cases import every

JOB = "0191b0a2-0000-7000-8000-000000000001"
OFFER: dict[str, Any] = {
    "job_id": JOB,
    "attempt": 2,
    "service": "s",
    "payload": {"x": 1},
    "payload_salt": "00ff",
    "payload_digest": "d",
    "timeout_seconds": 5,
    "expires_at": 1,
}


@every(
    "value",
    [
        None,
        [],
        {},
        *({name: OFFER[name] for name in OFFER if name != missing} for missing in OFFER),
        OFFER | {"job_id": "hunter2"},
        OFFER | {"attempt": "hunter2"},
        OFFER | {"payload": "hunter2"},
        OFFER | {"payload_salt": "hunter2"},
        OFFER | {"payload_blob": ["hunter2"]},
    ],
)
def test_a_malformed_offer(value: object) -> None:
    """It raises BadOffer, which quotes nothing of it."""
    with pytest.raises(BadOffer) as caught:
        read_offer(value)
    assert "hunter2" not in str(caught.value)


def test_an_offer_of_a_newer_coordinator() -> None:
    """Fields that a newer coordinator adds do no harm, neither here nor in the answer to a poll."""
    offer = read_offer(OFFER | {"novel": True, "status": "accepted", "position": 7})
    assert Offer(**OFFER) == offer
    assert (JOB, 2) == offer.key
    assert b"\x00\xff" == offer.salt


def test_a_payload_may_be_in_a_blob() -> None:
    """A large payload is named instead of given."""
    offer = read_offer(OFFER | {"payload": None, "payload_blob": "blob:00"})
    assert (None, "blob:00") == (offer.payload, offer.payload_blob)
