"""Blobs in a directory: `ab/cdef…` by digest, `tmp/` for uploads under way."""

import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from coordinator.blobs.port import (
    PIECE_BYTES,
    BlobInfo,
    BlobNotFound,
    DigestMismatch,
    check_digest,
    in_pieces,
    in_thread,
    is_blob_name,
)

ABANDONED_AFTER_SECONDS = 24 * 3600
"""Older temporary files belong to dead processes: no upload may take this long."""


class LocalBlobStore:
    """A BlobStore in one directory, which several processes may share. Durable once `put` returns."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / "tmp"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._temporary.mkdir(mode=0o700, exist_ok=True)
        _remove_older(self._temporary, time.time() - ABANDONED_AFTER_SECONDS)

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobInfo:
        """See BlobStore.put."""
        upload = _Upload(self._temporary / secrets.token_hex(16))
        try:
            async for piece in in_pieces(stream, max_bytes):
                await in_thread(partial(upload.write, piece))
            sha256 = upload.digest.hexdigest()
            check_digest(sha256, expected_sha256)
            await in_thread(lambda: upload.move_to(self._path(sha256)))
            return BlobInfo(sha256, upload.size)
        finally:
            if not upload.moved:
                await in_thread(upload.discard)

    async def get(self, sha256: str) -> AsyncIterator[bytes]:
        """See BlobStore.get."""
        if not is_blob_name(sha256):
            raise BlobNotFound(f"no blob {sha256[:80]!r}")
        try:
            reading = await in_thread(lambda: _Reading(self._path(sha256)))
        except FileNotFoundError:
            raise BlobNotFound(f"no blob {sha256}") from None
        try:
            while reading.piece:
                yield reading.piece
                if not reading.remaining:
                    break
                await in_thread(reading.next)
        finally:
            reading.file.close()
        if reading.digest.hexdigest() != sha256:
            raise DigestMismatch(f"blob {sha256} is damaged: its content has another digest; upload it again")

    async def stat(self, sha256: str) -> BlobInfo | None:
        """See BlobStore.stat."""
        if not is_blob_name(sha256):
            return None
        try:
            return BlobInfo(sha256, (await in_thread(self._path(sha256).stat)).st_size)
        except FileNotFoundError:
            return None

    async def delete(self, sha256: str) -> None:
        """See BlobStore.delete."""
        if is_blob_name(sha256):
            await in_thread(lambda: self._path(sha256).unlink(missing_ok=True))

    async def delete_older(self, sha256: str, before: float) -> bool:
        """See BlobStore.delete_older."""
        if not is_blob_name(sha256):
            return True
        path = self._path(sha256)

        def remove() -> bool:
            try:
                if path.stat().st_mtime >= before:
                    return False
                path.unlink()
            except FileNotFoundError:
                pass
            return True

        return await in_thread(remove)

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256[2:]


class _Upload:
    """A temporary file on its way to becoming a blob. One thread at a time calls it."""

    def __init__(self, path: Path) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self.moved = False
        self._path = path
        self._file: BinaryIO | None = None

    def write(self, piece: bytes) -> None:
        # Opened here and not in the constructor, so that its maker can always discard an open file.
        self._file = self._file or self._path.open("xb")
        self._file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)

    def move_to(self, target: Path) -> None:
        self.write(b"")
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if not target.parent.exists():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(target.parent.parent)
        # Also replaces an existing blob: its content is the same, or damaged.
        self._path.replace(target)
        self.moved = True
        _sync_directory(target.parent)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


class _Reading:
    """A blob being read: `piece` is the current piece, `remaining` the bytes after it. Opens at once."""

    def __init__(self, path: Path) -> None:
        self.digest = hashlib.sha256()
        self.file = path.open("rb")
        self.remaining = os.fstat(self.file.fileno()).st_size
        self.next()

    def next(self) -> None:
        self.piece = self.file.read(PIECE_BYTES)
        self.remaining -= len(self.piece)
        self.digest.update(self.piece)


def _sync_directory(path: Path) -> None:
    """Make a rename or a new folder survive a power cut; the file's own fsync does not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_older(folder: Path, moment: float) -> None:
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime < moment:
                path.unlink()
        except FileNotFoundError:
            continue
