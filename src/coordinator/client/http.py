"""The client over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import ValidationError

from coordinator.client import transfer
from coordinator.client.connection import ANSWER_TIMEOUT_S, TRIES, Connection, header_text
from coordinator.client.errors import BadAnswer, Conflict, NotFound, NotReady
from coordinator.client.models import Answer, Blob, Canceled, Job, JobResult, Page, Submitted

LONG_POLL_S: Final = 20.0
"""How long one request waits for a job to end; proxies tend to cut connections that are silent for longer."""
SHORTEST_POLL_S: Final = 0.5
"""The least time between two of them, should a server answer at once."""
AnyAnswer = TypeVar("AnyAnswer", bound=Answer)


class Client:
    """A client of one coordinator. Use it with `async with`, or call `close()`.

    Every method raises `CoordinatorError` and nothing else: `Unreachable` where no answer came, a kind of
    `Refused` where the coordinator said no. A read shows what was written through the same client before it.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = ANSWER_TIMEOUT_S,
        tries: int = TRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`api_key` is `name:secret`; `timeout` is in seconds of silence; `tries` per request."""
        self._connection = Connection(url, api_key, timeout=timeout, tries=tries, transport=transport)

    async def close(self) -> None:
        """Give back the connections. May be called twice."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- jobs ----------------------------------------------------------------------------------------------
    async def submit(
        self,
        service: str,
        payload: Mapping[str, Any],
        *,
        constraints: Mapping[str, Any] | None = None,
        ttl_seconds: int | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        idempotency_key: str | None = None,
    ) -> Submitted:
        """Ask for one unit of work. It is in the log when this returns.

        Calling again with the same `idempotency_key` returns the first job; without one the SDK makes one,
        so that its own retries can't submit twice.
        """
        asked = {
            "service": service,
            "payload": dict(payload),
            "constraints": dict(constraints or {}),
            "ttl_seconds": ttl_seconds,
            "priority": priority,
            "max_attempts": max_attempts,
        }
        document = await self._connection.ask_json(
            "POST",
            "/v1/jobs",
            json={name: value for name, value in asked.items() if value is not None},
            headers={b"Idempotency-Key": header_text("the idempotency key", idempotency_key or uuid4().hex)},
        )
        return _typed(Submitted, document)

    async def get(self, job_id: str) -> Job:
        """The job as it is now."""
        return _typed(Job, await self._connection.ask_json("GET", f"/v1/jobs/{_part(job_id)}"))

    async def list(
        self,
        *,
        state: str | None = None,
        service: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page:
        """One page of this client's jobs, newest first."""
        params = {"state": state, "service": service, "limit": limit, "cursor": cursor}
        return await self._page("/v1/jobs", params)

    async def result(self, job_id: str, *, wait: float = 0.0) -> JobResult:
        """What the job gave, waiting up to `wait` seconds for it (the server may wait less).

        Raises NotReady while the job is not final, Conflict where it ended without a result.
        """
        document = await self._connection.ask_json(
            "GET",
            f"/v1/jobs/{_part(job_id)}/result",
            params={"wait": f"{wait:g}"} if wait else None,
            patience=wait,
        )
        return _typed(JobResult, document)

    async def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        """The job once it is final, however it ended. Raises NotReady after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            began = time.monotonic()
            left = LONG_POLL_S if until is None else min(LONG_POLL_S, max(0.0, until - began))
            try:
                await self.result(job_id, wait=left)
            except Conflict:
                pass  # final, without a result
            except NotFound as error:
                if error.code != "BLOB_NOT_FOUND":
                    raise
                # Final, and its result has been erased since.
            except NotReady:
                if until is not None and time.monotonic() >= until:
                    raise
                if time.monotonic() - began < SHORTEST_POLL_S:
                    await asyncio.sleep(min(left, SHORTEST_POLL_S))
                continue
            job = await self.get(job_id)
            if job.final:
                return job

    async def cancel(self, job_id: str, reason: str = "") -> Canceled:
        """Stop a job that is queued or running. Raises Conflict where it is final already."""
        path = f"/v1/jobs/{_part(job_id)}/cancel"
        return _typed(Canceled, await self._connection.ask_json("POST", path, json={"reason": reason}))

    async def receipt(self, job_id: str) -> dict[str, Any]:
        """The signed receipt of a completed job; `coordinator.crypto.receipt.verify_receipt` checks it."""
        return await self._connection.ask_json("GET", f"/v1/jobs/{_part(job_id)}/receipt")

    # --- blobs ---------------------------------------------------------------------------------------------
    async def upload(self, path: Path, progress: transfer.Progress | None = None) -> Blob:
        """Store a file, unless it is there already. `progress(done, total)` is called in bytes.

        Raises OSError for a file that can't be read.
        """
        return await transfer.upload(self._connection, path, progress)

    async def download(
        self, job_id: str, sha256: str, target: Path, progress: transfer.Progress | None = None
    ) -> int:
        """Fetch a blob that the job refers to, into a file; its size in bytes.

        The file appears whole and checked, or not at all. Raises DamagedBlob, and OSError where the file
        can't be written.
        """
        return await transfer.download(self._connection, f"{_part(job_id)}", sha256, target, progress)

    # --- miners, services, health --------------------------------------------------------------------------
    async def miners(self, *, limit: int | None = None, cursor: str | None = None) -> Page:
        """One page of the miners that this key may see."""
        return await self._page("/v1/miners", {"limit": limit, "cursor": cursor})

    async def miner(self, miner_id: str) -> dict[str, Any]:
        """One miner."""
        return await self._connection.ask_json("GET", f"/v1/miners/{_part(miner_id)}")

    async def drain(self, miner_id: str) -> dict[str, Any]:
        """Let a miner finish what it holds, and give it nothing new."""
        return await self._connection.ask_json("POST", "/v1/miners/drain", json={"miner_id": miner_id})

    async def services(self, *, limit: int | None = None, cursor: str | None = None) -> Page:
        """One page of the registry."""
        return await self._page("/v1/registry/services", {"limit": limit, "cursor": cursor})

    async def service(self, service: str) -> dict[str, Any]:
        """One entry of the registry."""
        return await self._connection.ask_json("GET", f"/v1/registry/services/{_part(service)}")

    async def health(self) -> dict[str, Any]:
        """What the coordinator says of itself, its public signing key among it."""
        return await self._connection.ask_json("GET", "/health")

    async def _page(self, path: str, params: Mapping[str, Any]) -> Page:
        document = await self._connection.ask_json("GET", path, params=params)
        items = document.get("items")
        if not isinstance(items, list):
            raise BadAnswer(f"{path} did not answer with a list of items")
        return Page(items, document.get("next_cursor"))


async def every(
    fetch: Callable[..., Any], limit: int | None = None, **filters: Any
) -> AsyncIterator[dict[str, Any]]:
    """The items of all pages of `client.list`, `client.miners` or `client.services`, up to `limit`."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        page: Page = await fetch(limit=None if left is None else min(left, 100), cursor=cursor, **filters)
        for item in page.items if left is None else page.items[:left]:
            yield item
        left = None if left is None else left - len(page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def _typed(kind: type[AnyAnswer], document: dict[str, Any]) -> AnyAnswer:
    try:
        return kind.of(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadAnswer(f"the coordinator's answer has no usable {where}: {first['msg']}") from None


def _part(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(name, safe="@")
