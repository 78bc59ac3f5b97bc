"""Uploads: a file goes to the blob store while it arrives, and belongs to its sender from then on."""

from __future__ import annotations

from collections.abc import AsyncIterator

from coordinator.blobs import BlobInfo
from coordinator.domain.messages import Principal
from coordinator.edge.context import EdgeContext


async def store_upload(
    context: EdgeContext,
    principal: Principal,
    content: AsyncIterator[bytes],
    *,
    expected_sha256: str | None = None,
) -> BlobInfo:
    """Store a file, and note that this principal may refer to it.

    Raises BlobError, LogUnavailable; Refusal if too many transfers and streams of its key are open.
    """
    limit = context.settings.max_blob_bytes
    with context.open_connections.stream(principal):
        info = await context.blobs.put(content, expected_sha256=expected_sha256, max_bytes=limit)
    await context.blob_owners.add(principal, info.sha256, info.size)
    return info
