"""A job's payload and result as they are stored beside the log, and their bytes in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any
from uuid import UUID

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from coordinator.application.payloads.bodies import blob_of_body
from coordinator.application.ports import PayloadKind, StoredPayload
from coordinator.domain.content import ContentErased, ContentKind
from coordinator.domain.errors import Code, Refusal
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.problems import Problem, problem_of
from coordinator.edge.models.base import moment, rfc3339
from coordinator.edge.state.tables.rows import JobRow
from coordinator.edge.state.threads import in_thread


async def stored_payload(context: EdgeContext, job_id: UUID, kind: PayloadKind) -> StoredPayload | None:
    """A job's payload or result as it is stored; None if it is missing or erased."""
    if kind == "result" and (recent := context.recent_result(job_id)) is not None:
        return recent
    stored = await in_thread(lambda: context.log.payloads(kind, [job_id]))
    return stored.get(job_id)


async def erasures(context: EdgeContext, job_id: UUID) -> list[tuple[int, ContentErased]]:
    """The events that say that this job's payload or result was erased, with their positions, in order."""
    positions = sorted(set((await context.reads.erasures(str(job_id))).values()))
    found = [await in_thread(partial(context.log.read, position - 1, 1)) for position in positions]
    return [(r.position, r.event) for [r] in found if isinstance(r.event, ContentErased)]


async def expired(
    context: EdgeContext, job_id: UUID, kinds: Sequence[ContentKind], detail: str, **more: Any
) -> Problem:
    """The problem of content that was erased, with the position of the event that says so, and its reason."""
    for position, event in await erasures(context, job_id):
        if not set(kinds).isdisjoint(event.kinds):
            told = f"{detail} ({' '.join(event.reason.split())}, position {position})"
            members = {"position": position, "reason": event.reason, "erased_at": rfc3339(moment(event.at))}
            return Problem(Code.CONTENT_EXPIRED, told, members=members, **more)
    return Problem(Code.CONTENT_EXPIRED, detail, **more)  # its row is about to be written


def result_blob(stored: StoredPayload, row: JobRow) -> str | None:
    """The SHA-256 of the blob with a completed job's result; None if the result is stored itself."""
    assert row.result_digest is not None  # a completed job has one
    return blob_of_body(stored, row.result_digest)


async def result_pieces(context: EdgeContext, row: JobRow) -> AsyncIterator[bytes] | None:
    """The result of a completed job, as JSON in pieces; None if it was erased."""
    stored = await stored_payload(context, row.id, "result")
    if stored is None:
        return None
    blob = result_blob(stored, row)
    return Joined(stored.body) if blob is None else await begun(context.blobs.get(blob))


async def begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, the first of them read already: a failure at once is still answered as a problem."""
    try:
        first = await anext(pieces, b"")
    except BaseException:
        await closed(pieces)
        raise
    return Joined(first, pieces)


class Pieces(StreamingResponse):
    """An answer in pieces. However it ends, the source of the pieces is closed at once.

    Otherwise the source, and the file that it reads, would stay open until a late garbage collection. For the
    same reason it ends a lost client's stream itself: the base class leaves a cycle of references for each.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        *,
        counted: AbstractContextManager[None] | None = None,
    ) -> None:
        """`counted` is entered for as long as the answer is under way; it may raise Refusal at once."""
        super().__init__(content, status_code, headers, media_type)
        self._counted = counted or nullcontext()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as counted:
            try:
                counted.enter_context(self._counted)
            except Refusal as refusal:
                await closed(self.body_iterator)
                await problem_of(refusal).response()(scope, receive, send)
                return
            await self._answer(receive, send)

    async def _answer(self, receive: Receive, send: Send) -> None:
        streaming = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((streaming, gone), return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                streaming.result()
        finally:
            for task in (streaming, gone):
                task.cancel()
            await asyncio.wait((streaming, gone))
            await closed(self.body_iterator)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def closed(pieces: object) -> None:
    """Close a source of pieces; does nothing for iterators that can't be closed."""
    if isinstance(pieces, AsyncGenerator | Joined):
        await pieces.aclose()


class Joined:
    """These bytes, the pieces, and these bytes. Closing it closes the pieces, also before the first one."""

    def __init__(self, before: bytes, pieces: AsyncIterator[bytes] | None = None, after: bytes = b"") -> None:
        self._pieces = pieces
        self._all = _joined(before, pieces, after)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._all

    async def __anext__(self) -> bytes:
        return await anext(self._all)

    async def aclose(self) -> None:
        await self._all.aclose()
        await closed(self._pieces)


async def _joined(before: bytes, pieces: AsyncIterator[bytes] | None, after: bytes) -> AsyncGenerator[bytes]:
    yield before
    if pieces is not None:
        async for piece in pieces:
            yield piece
    if after:
        yield after
