"""A job's payload and result as they are stored beside the log, and their bytes in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from coordinator.application.payloads.bodies import blob_of_body
from coordinator.application.ports import PayloadKind, StoredPayload
from coordinator.edge.context import EdgeContext
from coordinator.edge.state.rows import JobRow
from coordinator.edge.state.threads import in_thread


async def stored_payload(context: EdgeContext, job_id: UUID, kind: PayloadKind) -> StoredPayload | None:
    """A job's payload or result as it is stored; None if it is missing or erased."""
    stored = await in_thread(lambda: context.log.payloads(kind, [job_id]))
    return stored.get(job_id)


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
    return joined(stored.body) if blob is None else await begun(context.blobs.get(blob))


async def begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, the first of them read already: a failure at once is still answered as a problem."""
    first = await anext(pieces, b"")
    return joined(first, pieces)


async def joined(
    before: bytes, pieces: AsyncIterator[bytes] | None = None, after: bytes = b""
) -> AsyncIterator[bytes]:
    """These bytes, the pieces, and these bytes."""
    yield before
    if pieces is not None:
        async for piece in pieces:
            yield piece
    if after:
        yield after
