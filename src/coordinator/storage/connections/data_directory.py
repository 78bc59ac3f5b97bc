"""One process at a time uses a data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_NAME = "lock"


class DataDirectoryInUse(Exception):
    """Another process uses the data directory; stop it, or set DATA_DIR to another directory."""


class DataDirectory:
    """The directory `path`, made if it is missing and locked until `close` or the end of the process.

    Raises DataDirectoryInUse, which names the process that uses it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
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
