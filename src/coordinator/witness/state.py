"""What a witness has co-signed last of each log: one small file a log, durable before any answer."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.crypto.log.checkpoint import Checkpoint
from coordinator.private_files import make_folder, sync_folder


class BadWitnessState(Exception):
    """A file of the witness can't be read or written; nothing is co-signed for its log meanwhile."""


class WitnessState:
    """The last co-signed checkpoint of each log, in a folder of one process. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[str, threading.Lock] = {}
        self._making = threading.Lock()
        make_folder(folder)

    @contextmanager
    def turn(self, origin: str) -> Iterator[None]:
        """One request of a log at a time: reading, checking and storing are one step."""
        with self._making:
            lock = self._locks.setdefault(origin, threading.Lock())
        with lock:
            yield

    def last(self, origin: str) -> Checkpoint | None:
        """The last checkpoint that was co-signed; None for none. Raises BadWitnessState."""
        path = self._path(origin)
        try:
            found = Checkpoint.parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BadWitnessState(f"{path.name} can't be read: {error}") from error
        if found.origin != origin:
            raise BadWitnessState(f"{path.name} is of another log")
        return found

    def store(self, checkpoint: Checkpoint) -> None:
        """Replace the log's last checkpoint; on disk when this returns. Raises BadWitnessState."""
        path = self._path(checkpoint.origin)
        new = path.with_suffix(".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(checkpoint._replace(extensions="").text.encode())
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            sync_folder(self._folder)
        except OSError as error:
            raise BadWitnessState(f"{path.name} can't be written: {error.strerror}") from error

    def _path(self, origin: str) -> Path:
        # An origin may have any characters; its hash is a file's name.
        return self._folder / f"{hashlib.sha256(origin.encode()).hexdigest()}.checkpoint"
