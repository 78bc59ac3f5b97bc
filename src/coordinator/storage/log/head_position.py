"""The log's last position known to this process; threads can wait for it to move."""

from __future__ import annotations

from threading import Condition
from time import monotonic


class HeadPosition:
    """Moves forward only. Thread-safe; any number of threads may wait."""

    def __init__(self) -> None:
        self._position = 0
        self._closed = False
        self._changed = Condition()

    def moved(self, position: int) -> None:
        """Note that the log reaches at least `position`."""
        with self._changed:
            if position > self._position:
                self._position = position
                self._changed.notify_all()

    def wait(self, after: int, timeout: float) -> bool:
        """Whether the log goes beyond `after`; waits up to `timeout` seconds for it."""
        deadline = monotonic() + timeout
        with self._changed:
            while self._position <= after:
                remaining = deadline - monotonic()
                if self._closed or remaining <= 0:
                    return False
                self._changed.wait(remaining)
            return True

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Wake all waiting threads; later waits return at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
