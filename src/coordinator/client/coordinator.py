"""The asynchronous client of a coordinator. `sync` has the blocking one."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack
from uuid import uuid4

from coordinator.client import transfer
from coordinator.client.commands import Commands, HttpCommands, path_part
from coordinator.client.errors import BadAnswer
from coordinator.client.http import ANSWER_TIMEOUT_S, TRIES, HttpPool, typed
from coordinator.client.job import LONG_POLL_S, AsyncBatches, AsyncJob
from coordinator.client.models import Blob, ErasePiece, JobSubmitAnswer, JobView, MinerMatch, SubmitOptions
from coordinator.client.resources.accounts import AsyncAccounts
from coordinator.client.resources.keys import AsyncKeys
from coordinator.client.resources.quotas import AsyncQuotas
from coordinator.client.resources.registry import AsyncRegistry
from coordinator.client.resources.settlements import AsyncSettlements
from coordinator.client.resources.webhooks import AsyncWebhooks

if TYPE_CHECKING:
    import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8011"
PAGE_ITEMS: Final = 100
"""Items of a list per request."""


class AsyncCoordinator:
    """A client of one coordinator. Use it with `async with`, or call `close()`.

    Every method raises `CoordinatorError` and nothing else: `Unreachable` if no answer came, a kind of
    `RequestRefused` if the coordinator refused. A read shows every earlier write of the same client.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        amqp_url: str | None = None,
        coordinator_public_key: str | None = None,
        hmac_secret: str | None = None,
        timeout: float = ANSWER_TIMEOUT_S,
        tries: int = TRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`url` and `api_key` (`name:secret`) default to COORDINATOR_URL and COORDINATOR_API_KEY.

        `hmac_secret` signs HTTP requests, for keys that require it (COORDINATOR_HMAC_SECRET). With
        `amqp_url` commands go over RabbitMQ, many of them in one message, and reads over HTTP. Its answers
        must be signed with `coordinator_public_key` (COORDINATOR_PUBLIC_KEY; without it, with the first one's
        key). `timeout` is in seconds of silence; `tries` is the number of tries of each request; `transport`
        replaces the network (in tests).
        """
        url = os.environ.get("COORDINATOR_URL", DEFAULT_URL) if url is None else url
        api_key = os.environ.get("COORDINATOR_API_KEY") if api_key is None else api_key
        self.http = HttpPool(
            url, api_key, hmac_secret=hmac_secret, timeout=timeout, tries=tries, transport=transport
        )
        self.commands: Commands
        if amqp_url is None:
            self.commands = HttpCommands(self.http)
        else:
            # Imported here: clients over HTTP never pay for it.
            from coordinator.client.amqp_commands import AmqpCommands

            self.commands = AmqpCommands(
                amqp_url, api_key, coordinator_public_key, timeout=timeout, http=self.http
            )

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        await self.commands.close()
        await self.http.close()

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
        when_unmatched: Literal["wait", "refuse"] | None = None,
        callback_url: str | None = None,
        budget: int | None = None,
    ) -> AsyncJob:
        """Submit one job. It is in the log when this returns.

        With `when_unmatched="refuse"` a job that no live miner could run is refused (NO_ELIGIBLE_MINER), with
        the reason; otherwise it waits for one. `callback_url` is told of the job's end, as a webhook is. The
        job is never paid more than `budget`, in 10⁻⁶ of the unit of money.

        A second call with the same `idempotency_key` returns the first job. Without a key the SDK makes one,
        so that its own retries can't submit twice.
        """
        fields = _fields(
            service,
            payload,
            {
                "constraints": constraints,
                "ttl_seconds": ttl_seconds,
                "priority": priority,
                "max_attempts": max_attempts,
                "idempotency_key": idempotency_key,
                "when_unmatched": when_unmatched,
                "callback_url": callback_url,
                "budget": budget,
            },
        )
        submitted = typed(JobSubmitAnswer, await self.commands.call("job.submit", fields))
        return AsyncJob(self.http, self.commands, submitted.job_id, submitted)

    async def run(
        self,
        service: str,
        payload: Mapping[str, Any],
        *,
        timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> dict[str, Any]:
        """Submit one job, wait for its end, and return its result: in one request, if the job is short.

        The same as `submit`, with its options, and then `result`; it raises what these raise. After `timeout`
        seconds (None: none) NotReady is raised, and the job goes on: with an `idempotency_key` the same call
        waits again.
        """
        until = None if timeout is None else time.monotonic() + timeout
        wait = LONG_POLL_S if timeout is None else min(timeout, LONG_POLL_S)
        said = await self.commands.submit_and_wait(_fields(service, payload, options), wait)
        if isinstance(result := said.get("result"), dict):
            return result
        submitted = typed(JobSubmitAnswer, said)
        job = AsyncJob(self.http, self.commands, submitted.job_id, submitted)
        left = None if until is None else max(0.0, until - time.monotonic())
        return (await job.result(left)).result

    async def submit_many(
        self, service: str, payloads: Iterable[Mapping[str, Any]], **options: Unpack[SubmitOptions]
    ) -> list[AsyncJob]:
        """Submit many jobs for one service, concurrently; over AMQP they travel in arrays.

        The options are those of `submit`, for each job; `budget` is that of one.
        The jobs are in the order of the payloads, which are consumed as they are sent. The first error is
        raised unchanged, whether a refusal or an error of `payloads` itself. Other jobs may be in the log by
        then: with an `idempotency_key` (of the whole list) the same call again returns them.
        """
        key = options.get("idempotency_key") or uuid4().hex
        waiting = enumerate(payloads)
        jobs: dict[int, AsyncJob] = {}

        async def worker(number: int, payload: Mapping[str, Any]) -> None:
            """Submits one after the other, this one first."""
            for index, asked in chain([(number, payload)], waiting):
                own: SubmitOptions = {**options, "idempotency_key": f"{key}:{index}"}
                jobs[index] = await self.submit(service, asked, **own)

        try:
            async with asyncio.TaskGroup() as group:
                for first in islice(waiting, self.commands.at_a_time):
                    group.create_task(worker(*first))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [jobs[index] for index in range(len(jobs))]

    def job(self, job_id: str) -> AsyncJob:
        """A handle on a job by its id; sends no request."""
        return AsyncJob(self.http, self.commands, job_id)

    async def jobs(
        self, *, state: str | None = None, service: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[JobView, None]:
        """This client's jobs, newest first, at most `limit`; fetches the next page when it is needed."""
        async for item in self._items("/v1/jobs", limit, state=state, service=service):
            yield typed(JobView, item)

    async def erase(
        self,
        reason: str,
        *,
        client: str | None = None,
        older_than_seconds: int | None = None,
        kinds: Iterable[str] = ("payload", "result"),
        dry_run: bool = False,
    ) -> AsyncGenerator[ErasePiece, None]:
        """Erase payloads and results of all final jobs of a client, of an age, or of both; for admins.

        Each step of the iteration erases a piece, or only counts it (`dry_run`). One that was interrupted may
        be begun again: what is erased already is left out.
        """
        asked = {
            "client": client,
            "older_than_seconds": older_than_seconds,
            "kinds": list(kinds),
            "reason": reason,
            "dry_run": dry_run,
        }
        body: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        while True:
            piece = typed(ErasePiece, await self.http.ask_json("POST", "/v1/admin/erase", json=body))
            yield piece
            if piece.next_cursor is None:
                return
            body["cursor"] = piece.next_cursor

    # --- files ---------------------------------------------------------------------------------------------
    async def upload(self, path: str | os.PathLike[str], progress: transfer.Progress | None = None) -> Blob:
        """Store a file, unless it is stored already. `progress(done, total)` counts bytes.

        Name the file in a payload by its `ref`. Raises OSError if it can't be read.
        """
        return await transfer.upload(self.http, Path(path), progress)

    # --- services, miners, health --------------------------------------------------------------------------
    async def services(
        self, *, category: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The services of the registry."""
        async for item in self._items("/v1/registry/services", limit, category=category):
            yield item

    async def service(self, service: str) -> dict[str, Any]:
        """One entry of the registry, with the JSON Schemas of its payload and result."""
        return await self.http.ask_json("GET", f"/v1/registry/services/{path_part(service)}")

    async def miners(self, *, limit: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """The miners that this key may see: all for an admin, its own for a miner."""
        async for item in self._items("/v1/miners", limit):
            yield item

    async def miner(self, miner_id: str) -> dict[str, Any]:
        """One miner."""
        return await self.http.ask_json("GET", f"/v1/miners/{path_part(miner_id)}")

    async def miner_match(self, miner_id: str) -> MinerMatch:
        """Why a miner has no work, and what would bring it some."""
        path = f"/v1/miners/{path_part(miner_id)}/match"
        return typed(MinerMatch, await self.http.ask_json("GET", path))

    async def drain(self, miner_id: str) -> dict[str, Any]:
        """Let a miner finish its jobs, and offer it no new ones."""
        return await self.http.ask_json("POST", "/v1/miners/drain", json={"miner_id": miner_id})

    async def quarantine(
        self, principal: str, *, service: str | None = None, reason: str = ""
    ) -> dict[str, Any]:
        """Offer this key's miners no jobs of this service (None: of any), until `release`."""
        return await self._change_standing("quarantine", principal, service, reason)

    async def release(
        self, principal: str, *, service: str | None = None, reason: str = ""
    ) -> dict[str, Any]:
        """End the quarantine of this key's miners, for this service or for all."""
        return await self._change_standing("release", principal, service, reason)

    async def _change_standing(
        self, verb: str, principal: str, service: str | None, reason: str
    ) -> dict[str, Any]:
        body = {"principal": principal, "service": service, "reason": reason}
        return await self.http.ask_json("POST", f"/v1/miners/{verb}", json=body)

    async def raise_alarm(
        self, type_: str, subject: str, fault_position: int, detail: str = ""
    ) -> dict[str, Any]:
        """Tell the webhooks of admins of a fault, once: an auditor's `audit.diverged`, say."""
        asked = {"type": type_, "subject": subject, "fault_position": fault_position, "detail": detail}
        return await self.http.ask_json("POST", "/v1/admin/alarms", json=asked)

    async def health(self) -> dict[str, Any]:
        """The coordinator's health, with its public signing key (`signing_key_id`)."""
        return await self.http.ask_json("GET", "/health")

    async def health_report(self) -> dict[str, Any]:
        """The same also while it is unwell: `status` and `reasons` say so."""
        return await self.http.ask_json("GET", "/health", also=(503,))

    async def stats(self) -> dict[str, Any]:
        """Statistics, for admins: jobs, miners, slots, and the positions of followers."""
        return await self.http.ask_json("GET", "/v1/admin/stats")

    async def all_jobs(
        self, *, state: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[JobView, None]:
        """The jobs of all clients, newest first, for admins."""
        async for item in self._items("/v1/admin/jobs", limit, state=state):
            yield typed(JobView, item)

    @property
    def registry(self) -> AsyncRegistry:
        """The registry, typed; admins change it."""
        return AsyncRegistry(self.http, self._items)

    @property
    def keys(self) -> AsyncKeys:
        """API keys, for admins."""
        return AsyncKeys(self.http, self._items)

    @property
    def webhooks(self) -> AsyncWebhooks:
        """URLs that the coordinator tells of jobs, miners and faults."""
        return AsyncWebhooks(self.http, self._items)

    @property
    def batches(self) -> AsyncBatches:
        """Searches for jobs, and bulk cancel and submit-again on all that match."""
        return AsyncBatches(self.http, self._items)

    @property
    def accounts(self) -> AsyncAccounts:
        """Money: one's own for everybody, all accounts for admins; and quotes."""
        return AsyncAccounts(self.http, self._items)

    @property
    def settlements(self) -> AsyncSettlements:
        """Batches of payouts: one's own for everybody, all of them for admins."""
        return AsyncSettlements(self.http, self._items)

    @property
    def quotas(self) -> AsyncQuotas:
        """Limits and usage of names: of all for admins, of its own for everybody."""
        return AsyncQuotas(self.http, self._items)

    async def _items(
        self, path: str, limit: int | None, **filters: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The items of a list, page by page, up to `limit`."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = None if left is None else min(left, PAGE_ITEMS)
            document = await self.http.ask_json(
                "GET", path, params={**filters, "limit": size, "cursor": cursor}
            )
            items = document.get("items")
            if not isinstance(items, list):
                raise BadAnswer(f"{path} did not answer with a list of items")
            for item in items[:left]:
                yield item
            left = None if left is None else left - len(items)
            cursor = document.get("next_cursor")
            if cursor is None:
                return


def _fields(service: str, payload: Mapping[str, Any], options: SubmitOptions) -> dict[str, Any]:
    """A submit's fields; with an idempotency key, so that it is safe to repeat."""
    asked = {
        "service": service,
        "payload": dict(payload),
        **options,
        "constraints": dict(options.get("constraints") or {}),
        "idempotency_key": options.get("idempotency_key") or uuid4().hex,
    }
    return {name: value for name, value in asked.items() if value is not None}
