"""One process at a time uses a data directory, and only its account may enter it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from coordinator.private_files import narrow_entries, private_folder

LOCK_NAME = "lock"
DATABASE_FILE = "coordinator.db"
CHECKPOINT_FILE = "checkpoint"
DATABASE_FILES = (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm")
KNOWN_NAMES = (LOCK_NAME, DATABASE_FILE, "signing.key", "dev-keys.env", "blobs", "miners", CHECKPOINT_FILE)
"""Entries by which an existing directory is known to be a coordinator's."""


class DataDirectoryInUse(Exception):
    """Another process uses the data directory; stop it, or set DATA_DIR to another directory."""


class DataDirectory:
    """The directory `path`, made if it is missing and locked until `close` or the end of the process.

    Its mode is 0700, and its files lose every right of others. Raises DataDirectoryInUse, which names the
    process that uses it, and NotPrivate if others have a hold on it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        private_folder(self.path, known=KNOWN_NAMES)
        narrow_entries(self.path, plain=(LOCK_NAME, *DATABASE_FILES))
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor: int | None = os.open(self.path / LOCK_NAME, flags, 0o600)
        try:
            # The kernel releases the lock however the process ends, so no stale lock is left behind.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 100, 0).decode(errors="replace").strip() or "unknown"
            self.close()
            raise DataDirectoryInUse(
                f"{self.path} is in use by process {holder}; stop it, or set DATA_DIR to another directory"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Release the lock. May be called twice."""
        if self._descriptor is not None:
            # The file stays: removing it would let two processes lock two files of the same name.
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
