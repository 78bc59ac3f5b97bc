"""The registry: what can be asked for, and, for an admin, changed at run time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from coordinator.client.commands import path_part
from coordinator.client.http import HttpPool, typed
from coordinator.client.models import ServiceChanged, ServiceEntry, ServiceSummary, ServiceVersion

PATH: Final = "/v1/registry/services"


class AsyncRegistry:
    """The registered services of a coordinator (`client.registry`). Any key may read, an admin's change.

    Changes are idempotent by content: a repeat of the last one gets its answer again, and makes no version.
    """

    def __init__(self, http: HttpPool, items: Callable[..., AsyncGenerator[dict[str, Any], None]]) -> None:
        """`items(path, limit, **filters)` goes through the pages of a list."""
        self._http = http
        self._items = items

    async def list(
        self,
        *,
        category: str | None = None,
        tag: str | None = None,
        retired: bool = False,
        limit: int | None = None,
    ) -> AsyncGenerator[ServiceSummary, None]:
        """Services by id; retired ones, too, only where they are asked for."""
        filters = {"category": category, "tag": tag, "include_retired": "true" if retired else None}
        async for item in self._items(PATH, limit, **filters):
            yield typed(ServiceSummary, item)

    async def show(self, service: str, *, version: int | None = None) -> ServiceEntry:
        """One service, by id or alias, as it is or as a version of it was. Raises NotFound."""
        path = f"{PATH}/{path_part(service)}"
        return typed(ServiceEntry, await self._http.ask_json("GET", path, params={"version": version}))

    async def versions(
        self, service: str, *, limit: int | None = None
    ) -> AsyncGenerator[ServiceVersion, None]:
        """What became of a service: who changed it, how and when. Raises NotFound."""
        async for item in self._items(f"{PATH}/{path_part(service)}/versions", limit):
            yield typed(ServiceVersion, item)

    async def register(self, spec: Mapping[str, Any]) -> ServiceChanged:
        """Add a service; it takes jobs at once. `spec` is as `ServiceEntry.spec()` gives it.

        Raises Conflict where another has its id or an alias, RequestRefused for what is no entry.
        """
        return typed(ServiceChanged, await self._http.ask_json("POST", PATH, json=dict(spec)))

    async def revise(self, spec: Mapping[str, Any]) -> ServiceChanged:
        """Replace the whole entry with this id by its next version; a retired one takes jobs again.

        Jobs keep the version that they were submitted to. Raises NotFound, Conflict, RequestRefused.
        """
        path = f"{PATH}/{path_part(str(spec.get('id', '')))}"
        return typed(ServiceChanged, await self._http.ask_json("PUT", path, json=dict(spec)))

    async def retire(self, service: str) -> ServiceChanged:
        """Let a service take no new jobs; those that it has go on. Raises NotFound."""
        path = f"{PATH}/{path_part(service)}/retire"
        return typed(ServiceChanged, await self._http.ask_json("POST", path, json={}))
