"""The sink `webhook`: one signed message for each batch, by the Standard Webhooks specification.

The receiver answers 2xx once it has the batch safe and will pay it, 422 if it will never pay it, and
a repeat of a `webhook-id` as it answered the first one. Everything else means "later": the same bytes come
again under the same id.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Final as Constant

from coordinator.application.ports import (
    Final,
    PollAnswer,
    PreparedPayment,
    SinkBatch,
    SinkHistory,
    SinkRefused,
    SubmitAnswer,
    Submitted,
    Unknown,
)
from coordinator.application.webhooks.messages import json_text, rfc3339
from coordinator.application.webhooks.post import Post
from coordinator.crypto.webhooks import WebhookKeys
from coordinator.domain.messages import stream_id
from coordinator.settlement.document import as_json

SINK_ID: Constant = stream_id("settlement", "webhook")
"""The id under which the secret of these messages is derived."""
GENERATION: Constant = 1
TYPE: Constant = "settlement.closed"
REFUSED: Constant = 422


class WebhookSink:
    """A `SettlementSink`."""

    name = "webhook"
    needs_address = False
    quantum = 1

    def __init__(self, url: str, keys: WebhookKeys, post: Post, unit: str = "credits") -> None:
        self._url = url
        self._keys = keys
        self._post = post
        self._unit = unit
        self._accepted: set[str] = set()
        """Hashes that were answered by 2xx."""
        self._fresh: str | None = None
        """The hash of what this process prepared, while every try of it was answered."""
        self._answer: tuple[str, PollAnswer] | None = None
        """What `submit` was told, for the `poll` after it."""

    def address_fault(self, address: str) -> str | None:
        return None  # the receiver knows what it can pay

    async def check(self) -> str | None:
        return None  # a receiver that is down is asked again later

    async def prepare(self, batch: SinkBatch, history: SinkHistory) -> PreparedPayment:
        document = as_json(batch, self._unit).rstrip().decode()
        head = json_text({"type": TYPE, "timestamp": rfc3339(batch.closed_at)})[:-1]
        body = f'{head},"data":{document}}}'.encode()
        digest = hashlib.sha256(body).hexdigest()
        self._fresh = digest
        return PreparedPayment(body, digest, nonce=batch.number, covers=len(batch.left))

    async def submit(self, payment: PreparedPayment) -> SubmitAnswer:
        found = await self._send(payment)
        if isinstance(found, Final):
            return Submitted()
        self._answer = (payment.hash, found)
        return found

    async def poll(self, payment: PreparedPayment) -> PollAnswer:
        if payment.hash in self._accepted:
            return Final()
        told, self._answer = self._answer, None
        if told is not None and told[0] == payment.hash:
            return told[1]
        return await self._send(payment)

    async def replacement(
        self, payments: Sequence[PreparedPayment], pending_seconds: float
    ) -> PreparedPayment | None:
        return None

    async def close(self) -> None:
        return None

    async def _send(self, payment: PreparedPayment) -> Final | SinkRefused | Unknown:
        message_id = f"settlement_{payment.hash[:32]}"
        now = int(time.time())
        headers = self._keys.sign(SINK_ID, (GENERATION,), message_id, now, payment.body)
        answered = await self._post(self._url, headers, payment.body)
        if answered.succeeded:
            self._accepted = {payment.hash}
            return Final()
        if answered.status == REFUSED:
            if self._fresh == payment.hash:
                return SinkRefused("the receiver refused it")
            # It may have accepted a try whose answer was lost, of a process before this one, say. The money
            # must not return while the receiver pays.
            return Unknown(
                "the receiver refuses it now, and an earlier answer was lost: ask it, and confirm or refuse"
                " the batch"
            )
        self._fresh = None  # a proxy's answer, say, may hide that the receiver has it
        return Unknown(f"the receiver did not take it: {answered.says}")
