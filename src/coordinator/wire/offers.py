"""Offers of work, from coordinators to miners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from coordinator.domain.messages import Millis
from coordinator.validation import first_invalid_field


class BadOffer(ValueError):
    """An invalid offer. The text shows no value."""


class Offer(BaseModel):
    """This attempt at this job may be claimed. Losing or repeating an offer is harmless.

    `payload` is the job's payload, or None: then `payload_blob` names a blob with the payload as JSON, or the
    payload is private, and comes with the answer to the claim.
    """

    # A newer coordinator may add fields.
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    job_id: UUID
    attempt: int
    token: str | None = None
    """Proves that this attempt was offered to this profile; goes back with the claim."""
    service: str
    payload: dict[str, Any] | None = None
    payload_blob: str | None = None
    private: bool | None = None
    """Whether the payload is withheld; payload_salt is then empty."""
    payload_salt: str
    """Hex; `payload_digest` = SHA-256 over the salt's bytes and the payload's canonical JSON."""
    payload_digest: str
    timeout_seconds: int
    expires_at: Millis
    client: str | None = None
    """The client that submitted the job: the first word of the routing key of its progress."""
    traceparent: str | None = None
    """The job's trace; a miner's commands about the attempt carry it back."""

    @property
    def key(self) -> tuple[str, int]:
        """The job and the attempt in the form of messages; the same for copies of one offer."""
        return str(self.job_id), self.attempt

    @property
    def salt(self) -> bytes:
        """The bytes of `payload_salt`. Raises ValueError, except for an offer from `read_offer`."""
        return bytes.fromhex(self.payload_salt)


def with_payload(offer: Offer, answer: Mapping[str, Any]) -> Offer:
    """A private offer with the payload from its claim's (unsealed) answer. Raises BadOffer."""
    members = {name: answer.get(name) for name in ("payload", "payload_blob", "payload_salt")}
    return read_offer({**offer.model_dump(mode="json"), **members, "private": None})


def read_offer(value: object) -> Offer:
    """The offer in this JSON value, complete enough to be served. Raises BadOffer."""
    try:
        offer = Offer.model_validate(value)
    except ValidationError as error:
        raise BadOffer(first_invalid_field(error).text("offer")) from None
    if offer.payload is None and offer.payload_blob is None and not offer.private:
        raise BadOffer("payload: missing, and no payload_blob")
    try:
        offer.salt  # noqa: B018 - read now, when a bad salt costs nothing
    except ValueError:
        raise BadOffer("payload_salt: not in hex") from None
    return offer
