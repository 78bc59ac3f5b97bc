"""Uploads: a file goes to the blob store while it arrives, and belongs to its sender from then on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from coordinator.application.quotas.quotas import Quotas
from coordinator.application.quotas.usage import blob_charge
from coordinator.blobs import BlobInfo, BlobStoreUnavailable
from coordinator.domain.messages import Principal
from coordinator.edge.context import EdgeContext

STEP_BYTES: Final = 2**20
"""How often an upload of known length shows that it is still under way."""


async def store_upload(
    context: EdgeContext,
    principal: Principal,
    content: AsyncIterator[bytes],
    *,
    expected_sha256: str | None = None,
    declared: int = 0,
) -> BlobInfo:
    """Store a file, and note that this principal may refer to it.

    `declared`: its length, as far as the request says. Raises BlobError, LogUnavailable, and Refusal if the
    principal may not store so much, or has too many transfers and streams open.
    """
    limit, quotas = context.settings.max_blob_bytes, context.quotas
    known = expected_sha256 is not None and await context.blob_owners.has(principal, expected_sha256)
    most = None if quotas is None else quotas.stored_limit(principal)
    if quotas is None or most is None or known:
        with context.open_connections.stream(principal):
            info = await context.blobs.put(content, expected_sha256=expected_sha256, max_bytes=limit)
        charge = await context.blob_owners.add(principal, info.sha256, info.size)
    else:
        upload = _Counted(quotas, principal, declared)
        try:
            with context.open_connections.stream(principal):
                info = await context.blobs.put(
                    upload.pieces(content), expected_sha256=expected_sha256, max_bytes=limit
                )
            charge = await context.blob_owners.add(principal, info.sha256, info.size, most)
        finally:
            upload.end()
    if quotas is not None:
        quotas.usage.note_blob(principal.name, charge)
    # The expiry may have removed the same content between its storing and the row that keeps it.
    if await context.blobs.stat(info.sha256) is None:
        raise BlobStoreUnavailable("the same content has just expired; upload it again")
    return info


class _Counted:
    """An upload under way, counted with the others of its principal."""

    def __init__(self, quotas: Quotas, principal: Principal, declared: int) -> None:
        """Raises Refusal."""
        self._quotas = quotas
        self._principal = principal
        self._counted = 0
        self._count(blob_charge(declared))

    async def pieces(self, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same content. Raises Refusal once it is more than the principal may store."""
        seen = noted = 0
        async for piece in content:
            seen += len(piece)
            if seen > self._counted:
                self._count(seen)
            if seen - noted >= STEP_BYTES:
                self._note()  # it is still under way
                noted = seen
            yield piece

    def end(self) -> None:
        """It is stored, and counted there, or it failed."""
        self._quotas.uploads.drop(self._principal.name, self)

    def _count(self, size: int) -> None:
        fault = self._quotas.bytes_fault(self._principal, size - self._counted)
        if fault is not None:
            raise fault
        self._counted = size
        self._note()

    def _note(self) -> None:
        self._quotas.uploads.put(self._principal.name, self, self._counted)
