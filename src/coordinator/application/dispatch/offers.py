"""Offers, made from queued work and its stored payload."""

from __future__ import annotations

import hashlib
from uuid import UUID

from pydantic_core import from_json

from coordinator.application.dispatch.fair_queue import QueuedWork
from coordinator.application.ports import StoredPayload
from coordinator.wire.offers import Offer


def private_offer(work: QueuedWork, token: str) -> Offer:
    """The offer without a payload: the claim's answer brings it."""
    return Offer(
        job_id=UUID(work.job_id),
        attempt=work.attempt,
        token=token,
        service=work.service,
        private=True,
        payload_salt="",
        payload_digest=work.payload_digest,
        timeout_seconds=work.timeout_seconds,
        expires_at=work.expires_at,
        client=work.client,
        traceparent=work.traceparent or None,
    )


def offer_of(work: QueuedWork, stored: StoredPayload | None, token: str) -> Offer | None:
    """The offer with its payload; None if that was erased: then no miner can run the job, and it expires."""
    if stored is None:
        return None
    body = from_json(stored.body)
    # The digest tells a payload from a reference to a blob. The form of the body does not: a client may send
    # a payload of the same form.
    is_payload = hashlib.sha256(stored.salt + stored.body).hexdigest() == work.payload_digest
    blob = None if is_payload else body["blob"]
    return Offer(
        job_id=stored.job_id,
        attempt=work.attempt,
        token=token,
        service=work.service,
        payload=None if blob else body,
        payload_blob=blob,
        payload_salt=stored.salt.hex(),
        payload_digest=work.payload_digest,
        timeout_seconds=work.timeout_seconds,
        expires_at=work.expires_at,
        client=work.client,
        traceparent=work.traceparent or None,
    )
