"""The log's last position known to this process; threads can wait for it to move."""

from __future__ import annotations

from threading import Condition, Lock


class HeadPosition:
    """Moves forward only. Thread-safe; any number of threads may wait."""

    def __init__(self) -> None:
        self._position = 0
        self._closed = False
        self._waiting = 0
        lock = Lock()
        self._changed = Condition(lock)
        self._awaited = Condition(lock)

    def moved(self, position: int) -> None:
        """Note that the log reaches at least `position`."""
        with self._changed:
            if position > self._position:
                self._position = position
                self._changed.notify_all()

    def wait(self, after: int, timeout: float) -> bool:
        """Whether the log goes beyond `after`; waits up to `timeout` seconds for it."""
        with self._changed:
            if self._position > after:
                return True
            self._waiting += 1
            self._awaited.notify_all()
            try:
                self._changed.wait_for(lambda: self._position > after or self._closed, timeout)
            finally:
                self._waiting -= 1
            return self._position > after

    def wait_until_awaited(self, timeout: float) -> bool:
        """Whether a thread waits for the position to move, or all was closed; waits for it as well."""
        with self._awaited:
            return self._awaited.wait_for(lambda: self._waiting > 0 or self._closed, timeout)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Wake all waiting threads; later waits return at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._awaited.notify_all()
