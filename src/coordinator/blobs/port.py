"""The port of a blob store and its errors. Every adapter passes tests/contract/test_blobs.py."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import ClassVar, NamedTuple, Protocol, TypeVar

from coordinator.crypto.refs import SHA256_HEX

T = TypeVar("T")
PIECE_BYTES = 256 * 1024
"""Bytes per call in a thread: a call costs some 50 µs, the greater part of the time for smaller pieces."""


class BlobError(Exception):
    """A blob operation failed. `code` is stable and for programs; the message is for people."""

    code: ClassVar[str] = "BLOB_ERROR"


class BlobTooLarge(BlobError):
    """The blob is larger than allowed; nothing was stored."""

    code = "BLOB_TOO_LARGE"


class DigestMismatch(BlobError):
    """The content does not have the expected SHA-256."""

    code = "DIGEST_MISMATCH"


class BlobNotFound(BlobError):
    """No such blob."""

    code = "BLOB_NOT_FOUND"


class BlobStoreUnavailable(BlobError):
    """The store cannot be reached, or refuses the request; trying again later may help."""

    code = "BLOB_STORE_UNAVAILABLE"


class BlobInfo(NamedTuple):
    """A stored blob: SHA-256 in lowercase hex, and size in bytes."""

    sha256: str
    size: int


class BlobStore(Protocol):
    """Content by its SHA-256. The name of a blob is always 64 lowercase hex digits."""

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobInfo:
        """Store a stream; storing the same content again, also at the same time, is fine.

        A blob appears complete or not at all. Raises BlobTooLarge once the stream exceeds `max_bytes`,
        DigestMismatch if the content does not have the expected digest, and any error of the stream. After
        an error or a cancellation nothing is left.
        """

    def get(self, sha256: str) -> AsyncIterator[bytes]:
        """The content in chunks. Raises BlobNotFound before the first one.

        Raises DigestMismatch at the end if the stored content was damaged: a reader must not act on the
        content until the iterator ends normally.
        """

    def get_part(self, sha256: str, first: int, last: int) -> AsyncIterator[bytes]:
        """The bytes `first` to `last`, both included, in chunks. Raises BlobNotFound before the first one.

        The digest is of the whole content, so nothing compares a part: it is for players that seek in a film.
        """

    async def stat(self, sha256: str) -> BlobInfo | None:
        """Name and size, or None if the blob does not exist."""

    async def delete(self, sha256: str) -> None:
        """Remove a blob. Does nothing if it does not exist."""

    async def delete_older(self, sha256: str, before: float) -> bool:
        """Remove a blob unless it was stored again since `before` (Unix seconds); whether it is gone."""

    async def probe(self) -> None:
        """Find out whether blobs can be stored now. Raises BlobStoreUnavailable."""


def is_blob_name(text: str) -> bool:
    """Whether this is 64 lowercase hex digits; only such a name may enter a path or an object key."""
    return SHA256_HEX.fullmatch(text) is not None


def check_digest(actual: str, expected: str | None) -> None:
    """Raise DigestMismatch unless they agree; with None any digest is fine."""
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
            raise BlobTooLarge(f"the blob is larger than the allowed {max_bytes} bytes")
        waiting += chunk
        if len(waiting) >= PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


async def in_thread(call: Callable[[], T]) -> T:
    """Run a call in a thread and wait for its end, even when cancelled.

    A thread cannot be stopped, so a cleanup after it has to wait for its end.
    """
    task = asyncio.ensure_future(asyncio.to_thread(call))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # Retrieved, so that asyncio does not report an exception that was never retrieved.
        task.exception()
        try:
            raise cancelled
        finally:
            del cancelled  # the exception refers to this frame: a cycle, which would keep what is being read
    return task.result()
