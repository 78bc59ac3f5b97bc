"""Webhooks: URLs that the coordinator tells of jobs, miners and faults."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Final, Literal
from uuid import uuid4

from coordinator.client.commands import path_part
from coordinator.client.http import HttpPool

PATH: Final = "/v1/webhooks"
CALLBACKS: Final = "callbacks"
"""In place of a webhook's id: the `callback_url` of your jobs."""


class AsyncWebhooks:
    """The webhooks of this key's name (`client.webhooks`); for an admin, all of them."""

    def __init__(self, http: HttpPool, items: Callable[..., AsyncGenerator[dict[str, Any], None]]) -> None:
        """`items(path, limit, **filters)` iterates over the pages of a list."""
        self._http = http
        self._items = items

    async def create(
        self,
        url: str,
        *,
        events: Iterable[str] | None = None,
        label: str = "",
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Have messages sent to `url`; `secret` in the answer verifies them. The SDK's retries make one."""
        asked: dict[str, Any] = {"url": url, "label": label}
        if events is not None:
            asked["events"] = list(events)
        headers = {b"Idempotency-Key": (idempotency_key or uuid4().hex).encode()}
        return await self._http.ask_json("POST", PATH, json=asked, headers=headers)

    async def list(self, *, limit: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Webhooks, and how their receivers fared."""
        async for item in self._items(PATH, limit):
            yield item

    async def show(self, webhook_id: str) -> dict[str, Any]:
        """One webhook."""
        return await self._http.ask_json("GET", _path(webhook_id))

    async def change(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Iterable[str] | None = None,
        label: str | None = None,
        enabled: bool | None = None,
    ) -> dict[str, Any]:
        """Change what is given. `enabled=True` also after the coordinator disabled it."""
        asked = {
            "url": url,
            "events": None if events is None else [*events],
            "label": label,
            "enabled": enabled,
        }
        known = {name: value for name, value in asked.items() if value is not None}
        return await self._http.ask_json("PATCH", _path(webhook_id), json=known)

    async def remove(self, webhook_id: str) -> dict[str, Any]:
        """Send nothing more, for good."""
        return await self._http.ask_json("DELETE", _path(webhook_id))

    async def secret(self, webhook_id: str = CALLBACKS) -> dict[str, Any]:
        """What verifies the messages of a webhook, or of the `callback_url` of your jobs."""
        return await self._http.ask_json("GET", f"{_path(webhook_id)}/secret")

    async def rotate(
        self, webhook_id: str = CALLBACKS, *, grace_seconds: int | None = None, generation: int | None = None
    ) -> dict[str, Any]:
        """Give it a new secret; messages carry both signatures for `grace_seconds`, a day by default.

        Pass the `generation` to replace, so that a repeat does not rotate twice.
        """
        asked = {"grace_seconds": grace_seconds, "generation": generation}
        known = {name: value for name, value in asked.items() if value is not None}
        return await self._http.ask_json("POST", f"{_path(webhook_id)}/rotate", json=known)

    async def test(self, webhook_id: str) -> dict[str, Any]:
        """Send a test message; its delivery has the `position` of this answer."""
        return await self._http.ask_json("POST", f"{_path(webhook_id)}/test", json={})

    async def replay(
        self,
        webhook_id: str = CALLBACKS,
        *,
        deliveries: Iterable[str] | None = None,
        since: int | None = None,
    ) -> dict[str, Any]:
        """Send these messages again, or all undelivered ones about events since a moment (Unix ms)."""
        asked: dict[str, Any] = {} if deliveries is None else {"deliveries": [*deliveries]}
        if since is not None:
            asked["since"] = since
        return await self._http.ask_json("POST", f"{_path(webhook_id)}/replay", json=asked)

    async def deliveries(
        self,
        webhook_id: str = CALLBACKS,
        *,
        state: Literal["PENDING", "DELIVERED", "FAILED"] | None = None,
        subject: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Messages and what became of them, the newest first. `subject`: a job's id, say."""
        path = f"{_path(webhook_id)}/deliveries"
        async for item in self._items(path, limit, state=state, subject=subject):
            yield item

    async def delivery(self, webhook_id: str, delivery_id: str) -> dict[str, Any]:
        """One message."""
        return await self._http.ask_json("GET", f"{_path(webhook_id)}/deliveries/{path_part(delivery_id)}")


def _path(webhook_id: str) -> str:
    return f"{PATH}/{path_part(webhook_id)}"
