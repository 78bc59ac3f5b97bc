"""API keys, managed by an admin."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final
from uuid import uuid4

from coordinator.client.commands import path_part
from coordinator.client.http import HttpPool

PATH: Final = "/v1/admin/keys"


class AsyncKeys:
    """The API keys of a coordinator (`client.keys`). Only `create` and `rotate` show secrets, once."""

    def __init__(self, http: HttpPool, items: Callable[..., AsyncGenerator[dict[str, Any], None]]) -> None:
        """`items(path, limit, **filters)` iterates over the pages of a list."""
        self._http = http
        self._items = items

    async def create(
        self,
        name: str,
        role: str,
        *,
        label: str = "",
        expires_in_seconds: int | None = None,
        signed: bool = False,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Make a key; `key` in the answer is `name:secret`.

        The SDK's own retries make no second key. If the answer to the first try was lost, `key` is None:
        rotate the key.
        """
        asked: dict[str, Any] = {"name": name, "role": role, "label": label, "signed": signed}
        if expires_in_seconds is not None:
            asked["expires_in_seconds"] = expires_in_seconds
        headers = {b"Idempotency-Key": (idempotency_key or uuid4().hex).encode()}
        return await self._http.ask_json("POST", PATH, json=asked, headers=headers)

    async def list(
        self,
        *,
        name: str | None = None,
        role: str | None = None,
        revoked: bool = False,
        limit: int | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Keys by name; revoked ones only with `revoked`."""
        filters = {"name": name, "role": role, "revoked": "true" if revoked else None}
        async for item in self._items(PATH, limit, **filters):
            yield item

    async def rotate(
        self, key_id: str, *, grace_seconds: int = 0, generation: int | None = None
    ) -> dict[str, Any]:
        """Give a key a new secret; its old ones stay valid for `grace_seconds`.

        Pass the `generation` to replace, so that a repeat does not rotate twice.
        """
        asked = {"grace_seconds": grace_seconds, "generation": generation}
        known = {name: value for name, value in asked.items() if value is not None}
        return await self._http.ask_json("POST", f"{PATH}/{path_part(key_id)}/rotate", json=known)

    async def revoke(self, key_id: str, reason: str = "") -> dict[str, Any]:
        """Revoke a key, at once and for good."""
        path = f"{PATH}/{path_part(key_id)}/revoke"
        return await self._http.ask_json("POST", path, json={"reason": reason})
