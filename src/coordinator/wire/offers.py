"""Offers of work, from coordinators to miners."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from coordinator.domain.messages import Millis
from coordinator.validation import first_invalid_field


class BadOffer(ValueError):
    """Not an offer. The text shows no value."""


class Offer(BaseModel):
    """This job, this attempt, is there for the taking. Losing or repeating an offer is harmless.

    `payload` is the job's payload, or None with `payload_blob` naming the blob that holds it as JSON.
    """

    # Fields that a newer coordinator adds are ignored.
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    job_id: UUID
    attempt: int
    service: str
    payload: dict[str, Any] | None = None
    payload_blob: str | None = None
    payload_salt: str
    """Hex; `payload_digest` = SHA-256 over the salt's bytes and the payload's canonical JSON."""
    payload_digest: str
    timeout_seconds: int
    expires_at: Millis
    client: str | None = None
    """Whose job it is: the first word of the routing key of its progress."""
    traceparent: str | None = None
    """The trace that the job belongs to; a miner's commands about the attempt carry it back."""

    @cached_property
    def key(self) -> tuple[str, int]:
        """The job and the attempt as messages name them; the same for copies of one offer."""
        return str(self.job_id), self.attempt

    @cached_property
    def salt(self) -> bytes:
        """The bytes of `payload_salt`. Raises ValueError, except for an offer from `read_offer`."""
        return bytes.fromhex(self.payload_salt)


def read_offer(value: object) -> Offer:
    """The offer in this JSON value, which can be served. Raises BadOffer."""
    try:
        offer = Offer.model_validate(value)
    except ValidationError as error:
        raise BadOffer(first_invalid_field(error).text("offer")) from None
    if offer.payload is None and offer.payload_blob is None:
        raise BadOffer("payload: missing, and payload_blob, too")
    try:
        offer.salt  # noqa: B018 - read now, where a bad one costs nothing
    except ValueError:
        raise BadOffer("payload_salt: not in hex") from None
    return offer
