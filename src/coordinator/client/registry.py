"""The registry of services; an admin may change it at run time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import datetime
from typing import Any, Final

from coordinator.client.commands import path_part
from coordinator.client.http import HttpPool, typed
from coordinator.client.models import AnswerModel

PATH: Final = "/v1/registry/services"


class ServiceSummary(AnswerModel):
    """A service of the registry, in the short form of lists."""

    id: str
    name: str
    category: str
    description: str
    pricing: dict[str, Any]
    tags: tuple[str, ...]
    aliases: tuple[str, ...]
    version: int
    retired: bool


class ServiceEntry(ServiceSummary):
    """A service of the registry, in full. The schemas are JSON Schema 2020-12."""

    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    requirements: dict[str, Any]
    capabilities: tuple[str, ...]
    max_concurrent: int
    timeout_seconds: int

    def spec(self) -> dict[str, Any]:
        """The entry in the form that `register` and `revise` take."""
        return {name: value for name, value in self.document().items() if name not in ("version", "retired")}


class ServiceChanged(AnswerModel):
    """A service was registered, revised or retired, now or earlier (for a repeat)."""

    service: str
    version: int
    retired: bool
    position: int


class ServiceVersion(AnswerModel):
    """One change of a service."""

    version: int
    change: str
    at: datetime
    by: str
    position: int


class AsyncRegistry:
    """The registered services of a coordinator (`client.registry`). Any key may read; an admin's may change.

    Changes are idempotent by content: a repeat of the last one gets the same answer, and makes no version.
    """

    def __init__(self, http: HttpPool, items: Callable[..., AsyncGenerator[dict[str, Any], None]]) -> None:
        """`items(path, limit, **filters)` iterates over the pages of a list."""
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
        """Services by id; retired ones only with `retired`."""
        filters = {"category": category, "tag": tag, "include_retired": "true" if retired else None}
        async for item in self._items(PATH, limit, **filters):
            yield typed(ServiceSummary, item)

    async def show(self, service: str, *, version: int | None = None) -> ServiceEntry:
        """One service, by id or alias: its newest version, or `version`. Raises NotFound."""
        path = f"{PATH}/{path_part(service)}"
        return typed(ServiceEntry, await self._http.ask_json("GET", path, params={"version": version}))

    async def versions(
        self, service: str, *, limit: int | None = None
    ) -> AsyncGenerator[ServiceVersion, None]:
        """The history of a service: the author, kind and time of each change. Raises NotFound."""
        async for item in self._items(f"{PATH}/{path_part(service)}/versions", limit):
            yield typed(ServiceVersion, item)

    async def register(self, spec: Mapping[str, Any]) -> ServiceChanged:
        """Add a service; it takes jobs at once. `spec` has the form of `ServiceEntry.spec()`.

        Raises Conflict if another service has its id or an alias, RequestRefused for an invalid entry.
        """
        return typed(ServiceChanged, await self._http.ask_json("POST", PATH, json=dict(spec)))

    async def revise(self, spec: Mapping[str, Any]) -> ServiceChanged:
        """Replace the whole entry with this id by its next version; a retired service takes jobs again.

        Jobs keep the version to which they were submitted. Raises NotFound, Conflict, RequestRefused.
        """
        path = f"{PATH}/{path_part(str(spec.get('id', '')))}"
        return typed(ServiceChanged, await self._http.ask_json("PUT", path, json=dict(spec)))

    async def retire(self, service: str) -> ServiceChanged:
        """Let a service take no new jobs; its present jobs continue. Raises NotFound."""
        path = f"{PATH}/{path_part(service)}/retire"
        return typed(ServiceChanged, await self._http.ask_json("POST", path, json={}))
