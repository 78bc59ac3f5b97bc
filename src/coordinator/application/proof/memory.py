"""The memory of the last signed checkpoint outside of the database."""

from __future__ import annotations

from typing import Protocol

from coordinator.application.ports import LogUnavailable
from coordinator.crypto.log.checkpoint import SignedCheckpoint


class BadMemory(LogUnavailable):
    """The memory can't be read or written: nothing is signed until it can."""


class CheckpointMemory(Protocol):
    """Keeps one checkpoint, whatever happens to the database. `str` names it to operators."""

    def load(self) -> SignedCheckpoint | None:
        """The last stored checkpoint; None if there is none. Raises BadMemory."""

    def store(self, signed: SignedCheckpoint) -> None:
        """Keep this one instead; durable when it returns. Raises BadMemory."""


class NoMemory:
    """No memory: a restored backup is found out by the witnesses alone, if there are any."""

    def load(self) -> SignedCheckpoint | None:
        return None

    def store(self, signed: SignedCheckpoint) -> None:
        return None
