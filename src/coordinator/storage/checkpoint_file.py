"""The last signed checkpoint in a file of its own, outside of the database: a restored backup lacks it."""

from __future__ import annotations

import os
from pathlib import Path

from coordinator.application.proof.memory import BadMemory
from coordinator.crypto.log.checkpoint import SignedCheckpoint, read_checkpoint
from coordinator.crypto.log.note import MAX_NOTE_BYTES, BadNote
from coordinator.private_files import make_folder, sync_folder


class CheckpointFile:
    """A `CheckpointMemory`. One process writes it at a time; each write replaces the whole file, durably."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return f"the file {self._path.name}"

    def load(self) -> SignedCheckpoint | None:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_NOTE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadMemory(f"{self} can't be read: {error.strerror}") from error
        try:
            return read_checkpoint(content)
        except BadNote as error:
            raise BadMemory(
                f"{self} holds no checkpoint ({error}): restore it, or remove it if you are sure of the log"
            ) from None

    def store(self, signed: SignedCheckpoint) -> None:
        new = self._path.with_name(f".{self._path.name}.new")
        try:
            make_folder(self._path.parent)
            descriptor = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(signed.text.encode())
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise BadMemory(f"{self} can't be written: {error.strerror}") from error
