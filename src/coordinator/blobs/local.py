"""Blobs in a directory: `ab/cdef…` by digest, `tmp/` for uploads under way."""

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from coordinator.blobs.port import (
    BlobInfo,
    BlobNotFound,
    BlobStoreUnavailable,
    DigestMismatch,
    check_digest,
    in_pieces,
    in_thread,
    is_blob_name,
)
from coordinator.private_files import FILE_MODE, make_folder, narrow_entries, private_folder, sync_folder

READ_BYTES = 64 * 1024
"""A reader that stops to read holds two of these."""
ABANDONED_AFTER_SECONDS = 24 * 3600
"""Older temporary files belong to dead processes: no upload may take this long."""
LOW_SPACE_BYTES, LOW_SPACE_SHARE = 64 * 2**20, 0.02
"""With less space than both the store is full for all practical purposes."""
PROBE_BYTES = 4096


class LocalBlobStore:
    """A BlobStore in one directory, which several processes of one account may share.

    Durable once `put` returns. Raises NotPrivate for a directory that others may enter.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / "tmp"
        private_folder(root, known=(self._temporary.name,))
        make_folder(self._temporary)
        narrow_entries(root)
        _remove_older(self._temporary, time.time() - ABANDONED_AFTER_SECONDS)

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobInfo:
        """See BlobStore.put."""
        upload = _Upload(self._temporary / secrets.token_hex(16))
        try:
            async for piece in in_pieces(stream, max_bytes):
                await _storing(partial(upload.write, piece))
            sha256 = upload.digest.hexdigest()
            check_digest(sha256, expected_sha256)
            await _storing(lambda: upload.move_to(self._path(sha256)))
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
        except OSError as error:
            raise _unavailable(error) from error
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

    async def get_part(self, sha256: str, first: int, last: int) -> AsyncIterator[bytes]:
        """See BlobStore.get_part."""
        if not is_blob_name(sha256):
            raise BlobNotFound(f"no blob {sha256[:80]!r}")
        try:
            file = await in_thread(lambda: os.fdopen(_open_plain(self._path(sha256)), "rb"))
        except FileNotFoundError:
            raise BlobNotFound(f"no blob {sha256}") from None
        except OSError as error:
            raise _unavailable(error) from error
        remaining = last - first + 1
        try:
            file.seek(first)
            while remaining > 0 and (
                piece := await in_thread(partial(file.read, min(READ_BYTES, remaining)))
            ):
                remaining -= len(piece)
                yield piece
        finally:
            file.close()

    async def stat(self, sha256: str) -> BlobInfo | None:
        """See BlobStore.stat."""
        if not is_blob_name(sha256):
            return None
        try:
            return BlobInfo(sha256, (await in_thread(self._path(sha256).lstat)).st_size)
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

    async def probe(self) -> None:
        """See BlobStore.probe: writes a small file and removes it."""
        try:
            await in_thread(self._probe)
        except OSError as error:
            raise BlobStoreUnavailable(f"the blob store can't be written: {error.strerror}") from error

    def _probe(self) -> None:
        space = os.statvfs(self._root)
        if space.f_bavail * space.f_frsize < min(
            LOW_SPACE_BYTES, LOW_SPACE_SHARE * space.f_blocks * space.f_frsize
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path = self._temporary / f"probe-{secrets.token_hex(8)}"
        try:
            path.write_bytes(bytes(PROBE_BYTES))
        finally:
            path.unlink(missing_ok=True)

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
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._path, flags, FILE_MODE), "wb")
        self._file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)

    def move_to(self, target: Path) -> None:
        self.write(b"")
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        make_folder(target.parent)
        # Also replaces an existing blob: its content is the same, or damaged.
        self._path.replace(target)
        self.moved = True
        sync_folder(target.parent)

    def discard(self) -> None:
        if self._file is not None:
            # On a full disk closing fails as well: the rest of the buffer can't be written.
            with contextlib.suppress(OSError):
                self._file.close()
            self._path.unlink(missing_ok=True)


class _Reading:
    """A blob being read: `piece` is the current piece, `remaining` the bytes after it. Opens at once."""

    def __init__(self, path: Path) -> None:
        self.digest = hashlib.sha256()
        self.file = os.fdopen(_open_plain(path), "rb")
        self.remaining = os.fstat(self.file.fileno()).st_size
        self.next()

    def next(self) -> None:
        self.piece = self.file.read(READ_BYTES)
        self.remaining -= len(self.piece)
        self.digest.update(self.piece)


async def _storing(call: Callable[[], None]) -> None:
    """Run a call in a thread. Raises BlobStoreUnavailable if the disk is full, damaged or read-only."""
    try:
        await in_thread(call)
    except OSError as error:
        raise _unavailable(error) from error


def _unavailable(error: OSError) -> BlobStoreUnavailable:
    return BlobStoreUnavailable(f"the directory of blobs can't be used: {error.strerror}")


def _open_plain(path: Path) -> int:
    """A descriptor of a file. Raises FileNotFoundError also for a link, a pipe or a folder of that name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(errno.ENOENT, "a link, not a file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a file", str(path))
    return descriptor


def _remove_older(folder: Path, moment: float) -> None:
    for path in folder.iterdir():
        try:
            if path.lstat().st_mtime < moment:
                path.unlink()
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            continue  # another process was first, or it is no upload
