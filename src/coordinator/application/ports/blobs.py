"""The store of bodies that are too large for a row (see `coordinator.blobs`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class BlobName(Protocol):
    @property
    def sha256(self) -> str: ...


class BlobSink(Protocol):
    """The destination of bodies that are too large for a row (the blob store; see `coordinator.blobs`)."""

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobName: ...


class BlobSource(Protocol):
    """The source of such bodies."""

    def get(self, sha256: str) -> AsyncIterator[bytes]: ...


class BlobRemoval(Protocol):
    """The store of bodies that nobody needs any more."""

    async def delete_older(self, sha256: str, before: float) -> bool:
        """Remove a blob unless it was stored again since `before` (Unix seconds); whether it is gone."""
