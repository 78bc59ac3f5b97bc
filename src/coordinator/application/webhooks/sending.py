"""From a message that is due to what is sent: the receiver's URL, the signed headers, and the body."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from coordinator.application.webhooks.messages import body_of
from coordinator.application.webhooks.outcomes import Try
from coordinator.crypto.webhooks import (
    CannotUnseal,
    WebhookKeys,
    purpose_of_callback,
    purpose_of_webhook,
)
from coordinator.domain.webhook import Callbacks, Removed, Webhook, WebhookSecret

JobData = Callable[[str, int], Awaitable[Mapping[str, Any] | None]]
"""The API's view of a final job, by its id and the position of its end; None if the read models do not have
that yet."""


class DataNotReady(Exception):
    """The data is not there yet; look again soon."""


class Dropped(Exception):
    """The message is not to be sent; the text says why."""


class Request(NamedTuple):
    """What is sent."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Sending:
    """Prepares messages. Used on the event loop."""

    def __init__(
        self, keys: WebhookKeys, state_of: Callable[[UUID], Awaitable[Any]], job_data: JobData
    ) -> None:
        """`state_of`: the state of a stream, as the log has it now."""
        self._keys = keys
        self._state_of = state_of
        self._job_data = job_data

    async def prepare(self, message: Try, now: int) -> Request:
        """What to send. `now`: Unix milliseconds. Raises DataNotReady, Dropped, LogUnavailable."""
        webhook_id = UUID(message.webhook_id)
        state = await self._state_of(webhook_id)
        try:
            if message.sealed_url is not None:
                secret = state.secret if isinstance(state, Callbacks) else WebhookSecret()
                url = self._keys.unseal(purpose_of_callback(UUID(message.subject)), message.sealed_url)
            elif isinstance(state, Webhook):
                if not state.enabled and not message.is_test:
                    raise Dropped("the webhook was disabled; replay it once it is enabled")
                secret = state.secret
                url = self._keys.unseal(purpose_of_webhook(webhook_id), state.sealed_url)
            elif isinstance(state, Removed):
                raise Dropped("the webhook was removed")
            else:
                raise Dropped("no such webhook")
        except CannotUnseal as error:
            raise Dropped(f"the URL was {error}") from None
        data = await self._data_of(message)
        body = body_of(message.type, message.at, data)
        signed = self._keys.sign(webhook_id, secret.generations(now), message.delivery_id, now // 1000, body)
        return Request(url, signed, body)

    async def _data_of(self, message: Try) -> Mapping[str, Any]:
        if message.data_json is not None:
            known: Mapping[str, Any] = json.loads(message.data_json)
            return known
        found = await self._job_data(message.subject, message.position)
        if found is None:
            raise DataNotReady
        return found
