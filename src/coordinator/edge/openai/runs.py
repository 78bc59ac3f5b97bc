"""Runs a request as a job: submits it, waits for its end, and cancels it if the client disconnects."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, TypeVar
from uuid import UUID, uuid4

from fastapi import Depends, Header
from starlette.requests import ClientDisconnect, Request

from coordinator.application.background import Background
from coordinator.application.live.progress_stream import ProgressStream
from coordinator.crypto.refs import parse_blob_ref
from coordinator.domain.errors import Code
from coordinator.domain.job import JobCancel, JobSubmit, job_stream
from coordinator.domain.messages import Principal
from coordinator.edge.context import Context, EdgeContext
from coordinator.edge.http.commands import send
from coordinator.edge.http.credentials import Client
from coordinator.edge.http.problems import Problem
from coordinator.edge.http.reads.job_wait import final_job
from coordinator.edge.http.reads.reading import find_job
from coordinator.edge.http.reads.stored_payloads import expired, result_blob, stored_payload
from coordinator.edge.openai.errors import NO_RETRY, job_failure, timed_out
from coordinator.edge.openai.served_models import check_model
from coordinator.edge.state.tables.rows import JobRow
from coordinator.services.base import whole_result_in

JOB_HEADER: Final = "X-Job-Id"
CHECK_S: Final = 5.0
"""Between looks at whether a miner with the model of a waiting job is left."""
AGAIN_S: Final = 0.05
"""Before the next look at a job that has not ended, though its waiter was woken."""
UNSERVED_S: Final = 20.0
"""A queued job without such a miner for so long is given up: a restarted miner is back sooner."""
GRACE_S: Final = 30.0
"""Added to a job's time to live, so that the timers can end it."""
MAX_RESULT_BYTES: Final = 64 * 2**20
"""Of a result, or of one of its files."""
T = TypeVar("T")

_cancelling: Final = Background("openai-cancel")


@dataclass(frozen=True, slots=True)
class Done:
    """A completed job and its result."""

    job_id: UUID
    result: dict[str, Any]


class Followed(NamedTuple):
    """A job under way."""

    job_id: UUID
    ended: asyncio.Event
    progress: ProgressStream


class Runner:
    """Runs the jobs of one request. With an idempotency key a repeat gets the same job."""

    def __init__(
        self, request: Request, context: EdgeContext, principal: Principal, idempotency_key: str | None
    ) -> None:
        self.context = context
        self.created = int(time.time())
        """Unix seconds."""
        self._request = request
        self._principal = principal
        self._key = idempotency_key or uuid4().hex
        self._may_repeat = idempotency_key is not None
        self._final: set[UUID] = set()
        self._unserved: dict[UUID, float] = {}
        """Since when no live miner offers the model of these jobs, in monotonic seconds."""
        self._names: dict[str, str] = {}
        self._members: frozenset[str] = frozenset()

    def know(self, members: Collection[str], names: Mapping[str, str]) -> None:
        """Set the members of the request, which errors may name, and its names of the payload's members."""
        self._members, self._names = frozenset(members), dict(names)

    async def check_model(self, service: str, model: str) -> None:
        """Return at once if a live miner offers the model. Raises Problem."""
        await check_model(self.context.offerings, service, model)

    @property
    def job_id(self) -> UUID:
        """The id of the request's (first) job, which is known before the submit."""
        return self._id_of(0)

    def id_of(self, kind: str) -> str:
        """The id of an answer of this kind: the job's, in OpenAI's form."""
        return f"{kind}-{self.job_id.hex}"

    async def run(self, service: str, model: str, payload: Mapping[str, Any]) -> Done:
        """Run a job from its submit to its result.

        Raises Problem, Refusal; ClientDisconnect if the client disconnected, and then the job is cancelled.
        """
        [done] = await self.run_all(service, model, [payload])
        return done

    async def run_all(self, service: str, model: str, payloads: Sequence[Mapping[str, Any]]) -> list[Done]:
        """Run several jobs at once; if one fails, all are cancelled. Raises what `run` raises."""
        await self.check_model(service, model)

        async def all_of_them() -> list[Done]:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._run(service, model, payload, part))
                    for part, payload in enumerate(payloads)
                ]
            return [task.result() for task in tasks]

        try:
            return await self.unless_gone(all_of_them())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    @asynccontextmanager
    async def followed(
        self, service: str, model: str, payload: Mapping[str, Any], woken: asyncio.Event
    ) -> AsyncIterator[Followed]:
        """Run a job and follow it meanwhile. `woken` is set by progress, and by the job's end."""
        await self.check_model(service, model)
        with self._ended(0) as (job_id, ended):
            # Watched before the submit, so that no progress is missed.
            async with self.context.live.progress.watch(job_id, on_news=woken.set) as progress:
                telling = asyncio.ensure_future(_tell(ended, woken))
                try:
                    async with self._running(service, model, payload, 0):
                        yield Followed(job_id, ended, progress)
                finally:
                    telling.cancel()
                    await asyncio.gather(telling, return_exceptions=True)

    async def finish(self, job_id: UUID) -> Done:
        """The result of a job that has ended. Raises Problem if it has none, or if this process stops."""
        row = await self._final_row(job_id)
        if row.is_final:
            self._final.add(job_id)
        if not row.is_completed:
            raise job_failure(row, self._members, self._names)
        stored = await stored_payload(self.context, job_id, "result")
        if stored is None:
            raise await expired(self.context, job_id, ("result",), "the result was erased", headers=NO_RETRY)
        blob = result_blob(stored, row)
        body = stored.body if blob is None else await self.blob(blob)
        result = json.loads(body)
        if (whole := whole_result_in(result)) is not None:
            result = json.loads(await self.blob(whole))
        return Done(job_id, result)

    async def check_served(self, job_id: UUID, service: str, model: str) -> None:
        """Give a queued job up once no live miner has offered its model for a while. Raises Problem (503)."""
        try:
            await self.check_model(service, model)
        except Problem:
            since = self._unserved.setdefault(job_id, time.monotonic())
        else:
            self._unserved.pop(job_id, None)
            return
        if time.monotonic() - since < UNSERVED_S:
            return
        row = await find_job(self.context, self._principal, job_id)
        if row.state == "QUEUED":  # a miner that takes nothing new may still be at work
            raise Problem(
                Code.UNAVAILABLE,
                "the last miner with this model is gone; try again later, or ask for another model",
                headers={"Retry-After": str(int(UNSERVED_S))},
                members={"param": "model"},
            )

    async def blob(self, ref: str) -> bytes:
        """A file of a result. Raises Problem if it is too large for an answer, BlobError."""
        sha256 = parse_blob_ref(ref) if ref.startswith("blob:") else ref
        content = bytearray()
        async for piece in self.context.blobs.get(sha256):
            content += piece
            if len(content) > MAX_RESULT_BYTES:
                raise Problem(
                    Code.TOO_LARGE, "the result is too large for this answer", status=500, headers=NO_RETRY
                )
        return bytes(content)

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """The result of this work. Raises ClientDisconnect once the client is gone, and cancels the work."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_gone(self._request))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            return task.result()
        finally:
            for one in (task, gone):
                one.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    # --- one job -------------------------------------------------------------------------------------------
    async def _run(self, service: str, model: str, payload: Mapping[str, Any], part: int) -> Done:
        with self._ended(part) as (job_id, ended):
            async with self._running(service, model, payload, part):
                await self._wait(ended, lambda: self.check_served(job_id, service, model))
                return await self.finish(job_id)

    @contextmanager
    def _ended(self, part: int) -> Iterator[tuple[UUID, asyncio.Event]]:
        """The id of the job, and the event of its end, which is watched from before the submit."""
        job_id = self._id_of(part)
        with self.context.job_watch.ended(job_id) as ended:
            yield job_id, ended

    def _key_of(self, part: int) -> str:
        return f"{self._key}:{part}" if part else self._key

    def _id_of(self, part: int) -> UUID:
        return job_stream(self._principal.name, self._key_of(part))

    async def _final_row(self, job_id: UUID) -> JobRow:
        """The job once it is final: a watch that fails wakes its waiters early. Raises Problem."""
        try:
            async with asyncio.timeout(self.context.settings.openai_timeout_seconds + GRACE_S):
                while True:
                    row = await final_job(self.context, self._principal, job_id, CHECK_S)
                    if row.is_final or self.context.stopping.is_set():
                        return row
                    await asyncio.sleep(AGAIN_S)
        except TimeoutError:
            raise timed_out() from None

    @asynccontextmanager
    async def _running(
        self, service: str, model: str, payload: Mapping[str, Any], part: int
    ) -> AsyncIterator[None]:
        fields = {
            "service": service,
            "payload": dict(payload),
            "constraints": {"models": [model]},
            "ttl_seconds": self.context.settings.openai_timeout_seconds,
            "idempotency_key": self._key_of(part),
        }
        job_id = self._id_of(part)
        submitting = asyncio.ensure_future(
            send(self.context, self._principal, JobSubmit.topic, fields, self._request)
        )
        try:
            # Shielded: after an interrupted submit, nobody would know whether the job is in the log.
            await asyncio.shield(submitting)
            yield
        except BaseException:
            if job_id not in self._final and not self._may_repeat:
                self._cancel(job_id, submitting)
            raise

    def _cancel(self, job_id: UUID, submitting: asyncio.Future[Any]) -> None:
        """Cancel the job in a task of its own, which outlives this request."""

        async def cancel() -> None:
            fields = {"job_id": str(job_id), "reason": "nobody waits for it any more"}
            # Failures are harmless: the job was not submitted, is final already, or will expire.
            with suppress(Exception):
                await submitting
                await send(self.context, self._principal, JobCancel.topic, fields, self._request)

        _cancelling.spawn(cancel())

    async def _wait(self, ended: asyncio.Event, check: Callable[[], Awaitable[None]]) -> None:
        """Wait for a job's end, with a check now and then. Raises Problem."""
        try:
            async with asyncio.timeout(self.context.settings.openai_timeout_seconds + GRACE_S):
                while not await happened(ended, CHECK_S):
                    await check()
        except TimeoutError:
            raise timed_out() from None


async def runner_of(
    request: Request,
    context: Context,
    principal: Client,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=150,
            description="The same key means the same job, which is then not cancelled if you disconnect.",
        ),
    ] = None,
) -> Runner:
    """The request's runner."""
    return Runner(request, context, principal, idempotency_key)


RunnerOfRequest = Annotated[Runner, Depends(runner_of)]


async def happened(event: asyncio.Event, seconds: float) -> bool:
    """Whether an event happens within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def _tell(ended: asyncio.Event, woken: asyncio.Event) -> None:
    await ended.wait()
    woken.set()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
