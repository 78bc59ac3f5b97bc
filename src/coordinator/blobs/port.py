"""The port: what a blob store does, and how it fails. Every adapter passes tests/contract/test_blobs.py."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import ClassVar, NamedTuple, Protocol, TypeVar

from coordinator.crypto.refs import SHA256_HEX

T = TypeVar("T")
PIECE_BYTES = 256 * 1024
"""What one hop to a thread moves: hops cost some 50 µs, so smaller pieces would be mostly hops."""


class BlobError(Exception):
    """Something about a blob; `code` is stable and for programs, the message is for people."""

    code: ClassVar[str] = "BLOB_ERROR"


class BlobTooLarge(BlobError):
    """The blob is larger than allowed; nothing of it was kept."""

    code = "BLOB_TOO_LARGE"


class DigestMismatch(BlobError):
    """The content does not have the SHA-256 that it should have."""

    code = "DIGEST_MISMATCH"


class BlobNotFound(BlobError):
    """No such blob."""

    code = "BLOB_NOT_FOUND"


class BlobStoreUnavailable(BlobError):
    """The store cannot be reached, or refuses us; trying again later may help."""

    code = "BLOB_STORE_UNAVAILABLE"


class BlobInfo(NamedTuple):
    """A stored blob: SHA-256 in lowercase hex, and size in bytes."""

    sha256: str
    size: int


class BlobStore(Protocol):
    """Content by its SHA-256. A name that is not 64 lowercase hex digits names no blob, here or anywhere."""

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobInfo:
        """Store a stream; storing the same content again, also at the same time, is fine.

        A blob appears complete or not at all. Raises BlobTooLarge once the stream exceeds `max_bytes`,
        DigestMismatch if it does not have the digest expected of it, and whatever the stream raises; after
        any of these, and after a cancellation, nothing is left.
        """

    def get(self, sha256: str) -> AsyncIterator[bytes]:
        """The content in chunks. Raises BlobNotFound before the first one.

        Raises DigestMismatch at the end if what was read is not what was stored: until the iterator ends
        normally, a reader must not act on what it has read.
        """

    async def stat(self, sha256: str) -> BlobInfo | None:
        """Name and size, or None if there is no such blob."""

    async def delete(self, sha256: str) -> None:
        """Remove a blob; one that is not there is gone already."""


def is_blob_name(text: str) -> bool:
    """Whether this is 64 lowercase hex digits. Anything else never gets near a path or an object key."""
    return SHA256_HEX.fullmatch(text) is not None


def check_digest(actual: str, expected: str | None) -> None:
    """Raise DigestMismatch unless they agree; None expects nothing."""
    if expected is not None and actual != expected:
        raise DigestMismatch(f"the content has SHA-256 {actual}, expected {expected[:80]!r}")


async def in_pieces(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """The stream again in pieces of PIECE_BYTES or a little more.

    Raises BlobTooLarge before it yields any byte beyond `max_bytes`.
    """
    waiting, total = bytearray(), 0
    async for chunk in stream:
        total += len(chunk)
        if total > max_bytes:
            raise BlobTooLarge(f"the blob is larger than the {max_bytes} bytes that are allowed")
        waiting += chunk
        if len(waiting) >= PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


async def in_thread(call: Callable[[], T]) -> T:
    """Run a call in a thread and wait for its end, also while being cancelled.

    A thread cannot be stopped, so whoever cleans up after it has to wait until it is done.
    """
    task = asyncio.ensure_future(asyncio.to_thread(call))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # Looked at, so that nobody is told of an exception that was never retrieved.
        task.exception()
        raise cancelled
    return task.result()
