"""The URLs that jobs name: checked at the submit, and sealed, so that the log shows them to nobody."""

from __future__ import annotations

from uuid import UUID

from coordinator.crypto.webhooks import WebhookKeys, purpose_of_callback
from coordinator.domain.errors import Code, Refusal
from coordinator.wire.http.urls import UnsafeUrl, check_receiver_url


class CallbackUrls:
    """Checks and seals `callback_url`."""

    def __init__(self, keys: WebhookKeys, *, allow_private: bool = False) -> None:
        self._keys = keys
        self._allow_private = allow_private

    def check(self, url: str | None) -> None:
        """Raises Refusal unless the URL may be told of a job's end."""
        if url is None:
            return
        try:
            check_receiver_url(url, allow_private=self._allow_private)
        except UnsafeUrl as error:
            raise Refusal(Code.INVALID_PAYLOAD, f"callback_url: {error}") from None

    def sealed(self, job_id: UUID, url: str | None) -> str | None:
        """The URL as the job's event holds it."""
        return None if url is None else self._keys.seal(purpose_of_callback(job_id), url)
