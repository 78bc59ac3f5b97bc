"""A handle on one job: wait for it, follow it, fetch its result; and batches of all jobs that match."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal
from uuid import uuid4

from coordinator.client import transfer
from coordinator.client.commands import Commands, path_part
from coordinator.client.errors import Conflict, Erased, NoResult, NotFound, NotReady
from coordinator.client.http import HttpPool, typed
from coordinator.client.models import (
    EraseAnswer,
    JobCancelAnswer,
    JobHistory,
    JobMatch,
    JobResult,
    JobSubmitAnswer,
    JobView,
    Passport,
    Receipt,
    Update,
)
from coordinator.client.streaming import follow

LONG_POLL_S: Final = 20.0
"""The wait of one request for a job's end; proxies tend to cut connections that are silent for longer."""
SHORTEST_POLL_S: Final = 0.5
"""The least time between two such requests, if a server answers at once."""
BATCHES_PATH: Final = "/v1/jobs/batches"
BatchKind = Literal["cancel", "retry"]


class AsyncJob:
    """One job of a coordinator. Made by `submit`, or by `job(job_id)`, which sends no request."""

    def __init__(
        self, http: HttpPool, commands: Commands, job_id: str, submitted: JobSubmitAnswer | None = None
    ) -> None:
        self._http = http
        self._commands = commands
        self._job_id = job_id
        self._submitted = submitted
        self._path = f"/v1/jobs/{path_part(job_id)}"

    @property
    def job_id(self) -> str:
        """The job's id, a UUID."""
        return self._job_id

    @property
    def submitted(self) -> JobSubmitAnswer | None:
        """The answer to the submit; None if this handle was made by the job's id."""
        return self._submitted

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.job_id!r})"

    async def view(self) -> JobView:
        """The job as it is now."""
        return typed(JobView, await self._http.ask_json("GET", self._path))

    async def wait(self, timeout: float | None = None) -> JobView:
        """The job once it is final, however it ended. Raises NotReady after `timeout` seconds."""
        try:
            await self._ended(timeout)
        except Erased:
            pass  # the job is final, and its result has been erased since
        except NotFound as error:
            if error.code != "BLOB_NOT_FOUND":
                raise
            # The file with its result is gone.
        return await self._final_view()

    async def result(self, timeout: float | None = None) -> JobResult:
        """The job's result, once it is there.

        Raises NoResult if the job ended without a result, Erased if it was erased, NotReady after `timeout`
        seconds; 0 does not wait.
        """
        found = await self._ended(timeout)
        if found is None:
            raise NoResult(await self._final_view())
        return found

    async def whole_result(self, timeout: float | None = None) -> dict[str, Any]:
        """The result as `result` has it, or all of it from its file where it was too large for a message.

        The small form, which names the file, is the one that the receipt proves. Raises what `result` and
        `download` raise.
        """
        # Imported here: the models of services take longer to import than most CLI commands to run.
        from coordinator.services.base import whole_result_in

        found = (await self.result(timeout)).result
        ref = whole_result_in(found)
        if ref is None:
            return found
        with TemporaryDirectory(prefix="coordinator-result-") as folder:
            path = Path(folder) / "result.json"
            await self.download(ref, path)
            whole: dict[str, Any] = json.loads(await asyncio.to_thread(path.read_bytes))
        return whole

    async def stream(self, *, progress: bool = True) -> AsyncGenerator[Update, None]:
        """The updates of the job, past and present, until it is final.

        StateChanged and AttemptEndedUpdate come once each and in order, even over a lost connection. With
        `progress` there are ProgressMade and Tokens, too. Tokens begin with the text so far, and are lost
        while nobody listens; the result has the whole text.
        """
        async with aclosing(follow(self._http, self._path, progress=progress)) as updates:
            async for update in updates:
                yield update

    async def cancel(self, reason: str = "") -> JobCancelAnswer:
        """Cancel the job, queued or running. Raises Conflict if it is final already."""
        fields = {"job_id": self._job_id, "reason": reason}
        return typed(JobCancelAnswer, await self._commands.call("job.cancel", fields))

    async def retry(self, idempotency_key: str | None = None) -> AsyncJob:
        """Submit the final job again: a new job of the same client, with the same request.

        A repeat with the same key makes no second job. Raises Conflict if the job is not final, Erased if its
        payload was erased.
        """
        fields = {"job_id": self._job_id, "idempotency_key": idempotency_key or uuid4().hex}
        answer = typed(JobSubmitAnswer, await self._commands.call("job.submit_again", fields))
        return AsyncJob(self._http, self._commands, answer.job_id, answer)

    async def erase(self, reason: str, kinds: Iterable[str] = ("payload", "result")) -> EraseAnswer:
        """Erase the payload and the result of the final job, for good; the reason stays in the log.

        The receipt still verifies. A repeat gets the first answer. Raises Conflict if the job is not final.
        """
        fields = {"job_ids": [self._job_id], "kinds": list(kinds), "reason": reason}
        return typed(EraseAnswer, await self._commands.call("content.erase", fields))

    async def history(self) -> JobHistory:
        """All events of the job so far, from the log."""
        return typed(JobHistory, await self._http.ask_json("GET", f"{self._path}/history"))

    async def match(self) -> JobMatch:
        """Why the job waits: the constraints that miners fail, and the changes that would help."""
        return typed(JobMatch, await self._http.ask_json("GET", f"{self._path}/match"))

    async def receipt(self) -> Receipt:
        """The signed receipt of the completed job; its `verify` checks it with public keys alone."""
        return typed(Receipt, await self._http.ask_json("GET", f"{self._path}/receipt"))

    async def passport(self, *, with_salts: bool = False, timeout: float = LONG_POLL_S) -> Passport:
        """The file that proves the job offline, once the job is final and the log's checkpoint has its end.

        `with_salts`: whoever has the payload or the result can compare its digest then, or guess at a short
        one. Raises NotReady after `timeout` seconds: the code is JOB_NOT_READY or NOT_IN_CHECKPOINT.
        """
        until = time.monotonic() + timeout
        while True:
            began = time.monotonic()
            left = min(LONG_POLL_S, max(0.0, until - began))
            params = {"wait": f"{left:.3f}", "with_salts": "true" if with_salts else None}
            try:
                document = await self._http.ask_json(
                    "GET", f"{self._path}/passport", params=params, wait_seconds=left
                )
                return typed(Passport, document)
            except NotReady:
                if time.monotonic() >= until:
                    raise
                if time.monotonic() - began < SHORTEST_POLL_S:
                    await asyncio.sleep(min(left, SHORTEST_POLL_S))

    async def download(
        self, ref: str, path: str | os.PathLike[str], progress: transfer.Progress | None = None
    ) -> int:
        """Fetch a file of the job (`blob:<sha256>`, or the digest alone); returns its size in bytes.

        The file appears whole and checked, or not at all. `progress(done, total)` counts bytes.
        Raises DamagedBlob, and OSError if the file can't be written.
        """
        return await transfer.download(self._http, f"{self._path}/blobs", ref, Path(path), progress)

    # --- waiting -------------------------------------------------------------------------------------------
    async def _ended(self, timeout: float | None) -> JobResult | None:
        """The result once the job is final; None if it ended without one. Raises NotReady."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            began = time.monotonic()
            left = LONG_POLL_S if until is None else min(LONG_POLL_S, max(0.0, until - began))
            try:
                document = await self._http.ask_json(
                    "GET",
                    f"{self._path}/result",
                    params={"wait": f"{left:.3f}"} if left else None,
                    wait_seconds=left,
                )
                return typed(JobResult, document)
            except Conflict:
                return None
            except NotReady:
                if until is not None and time.monotonic() >= until:
                    raise
                if time.monotonic() - began < SHORTEST_POLL_S:
                    await asyncio.sleep(min(left, SHORTEST_POLL_S))

    async def _final_view(self) -> JobView:
        while True:
            job = await self.view()
            if job.final:
                return job
            # Another process answered, and its read models lag behind.
            await asyncio.sleep(SHORTEST_POLL_S)


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
        return await self._http.ask_json("POST", f"{BATCHES_PATH}/plan", json={"kind": kind, "query": query})

    async def begin(self, kind: BatchKind, query: str, *, reason: str = "") -> dict[str, Any]:
        """Begin a batch; its `batch_id` and progress. Raises Conflict while another one is under way."""
        asked = {"kind": kind, "query": query, "reason": reason}
        return await self._http.ask_json("POST", BATCHES_PATH, json=asked)

    async def show(self, batch_id: str) -> dict[str, Any]:
        """The progress of a batch."""
        return await self._http.ask_json("GET", f"{BATCHES_PATH}/{path_part(batch_id)}")

    async def recent(self) -> list[dict[str, Any]]:
        """The newest batches that this key may see."""
        found: list[dict[str, Any]] = (await self._http.ask_json("GET", BATCHES_PATH))["items"]
        return found

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Stop a batch; what is done stays done."""
        return await self._http.ask_json("POST", f"{BATCHES_PATH}/{path_part(batch_id)}/cancel", json={})
