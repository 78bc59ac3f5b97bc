"""Quotas: an admin's view of all names, and everybody's of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from coordinator.client.commands import path_part
from coordinator.client.http import HttpPool

PATH: Final = "/v1/admin/quotas"
OWN_PATH: Final = "/v1/quota"


class AsyncQuotas:
    """Limits and usage of names (`client.quotas`)."""

    def __init__(self, http: HttpPool, items: Callable[..., AsyncGenerator[dict[str, Any], None]]) -> None:
        """`items(path, limit, **filters)` iterates over the pages of a list."""
        self._http = http
        self._items = items

    async def list(self, *, limit: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Limits and usage by name; for admins."""
        async for item in self._items(PATH, limit):
            yield item

    async def show(self, name: str | None = None) -> dict[str, Any]:
        """Limits and usage of a name (for admins), or of the key's own."""
        path = OWN_PATH if name is None else f"{PATH}/{path_part(name)}"
        return await self._http.ask_json("GET", path)

    async def set(
        self, name: str, limits: Mapping[str, int | str | None], reason: str = ""
    ) -> dict[str, Any]:
        """Change limits of a name: a number, `"unlimited"`, or None for the limit of the settings."""
        asked = {"limits": dict(limits), "reason": reason}
        return await self._http.ask_json("PUT", f"{PATH}/{path_part(name)}", json=asked)
