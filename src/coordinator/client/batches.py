"""Searches for jobs, and bulk cancel and submit-again on all that match."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Literal

from coordinator.client.commands import path_part
from coordinator.client.http import HttpPool

PATH: Final = "/v1/jobs/batches"
BatchKind = Literal["cancel", "retry"]


class AsyncBatches:
    """Batches of commands about the jobs that match a query (`client.batches`).

    A query has terms such as `state:failed service:whisper client:alice attempt:>1 age:>10m`; all must hold.
    """

    def __init__(self, http: HttpPool, items: Callable[..., AsyncGenerator[dict[str, Any], None]]) -> None:
        """`items(path, limit, **filters)` iterates over the pages of a list."""
        self._http = http
        self._items = items

    async def search(
        self, query: str = "", *, limit: int | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The jobs that match, newest first, at most `limit`; fetches the next page when it is needed."""
        async for item in self._items("/v1/jobs/search", limit, q=query):
            yield item

    async def plan(self, kind: BatchKind, query: str) -> dict[str, Any]:
        """A dry run: how many jobs match (`total`), in which states, and the first of them."""
        return await self._http.ask_json("POST", f"{PATH}/plan", json={"kind": kind, "query": query})

    async def begin(self, kind: BatchKind, query: str, *, reason: str = "") -> dict[str, Any]:
        """Begin a batch; its `batch_id` and progress. Raises Conflict while another one is under way."""
        asked = {"kind": kind, "query": query, "reason": reason}
        return await self._http.ask_json("POST", PATH, json=asked)

    async def show(self, batch_id: str) -> dict[str, Any]:
        """The progress of a batch."""
        return await self._http.ask_json("GET", f"{PATH}/{path_part(batch_id)}")

    async def recent(self) -> list[dict[str, Any]]:
        """The newest batches that this key may see."""
        found: list[dict[str, Any]] = (await self._http.ask_json("GET", PATH))["items"]
        return found

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Stop a batch; what is done stays done."""
        return await self._http.ask_json("POST", f"{PATH}/{path_part(batch_id)}/cancel", json={})
