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
    """The directory `path`, made if it is not there, held until `close` or the end of the process.

    Raises DataDirectoryInUse, which names who holds it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._descriptor: int | None = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # The kernel lets go of it however the process ends, so that a lock is never left behind.
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
        """Let go of it. May be called twice."""
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
