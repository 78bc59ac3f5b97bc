"""What ends connections that stay open: the process stops, or their key is revoked or expires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coordinator.application.keyring import Grant, Keyring

LOOK_SECONDS = 15.0
"""Between looks at keys that may have expired; a revoked one is noticed at once."""


class Ending:
    """One open connection's."""

    __slots__ = ("grant", "revoked", "stopping", "wake")

    def __init__(self, grant: Grant, wake: Callable[[], None]) -> None:
        self.grant = grant
        self.wake = wake
        self.revoked = False
        """The key is no longer valid."""
        self.stopping = False
        """The process stops."""

    @property
    def over(self) -> bool:
        return self.revoked or self.stopping


class Endings:
    """All open connections of this process. Used on the event loop only."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._open: dict[Ending, None] = {}
        self._looking: asyncio.Task[None] | None = None
        self._stopping = False
        keyring.on_change(self._look)

    @contextmanager
    def watch(self, grant: Grant, wake: Callable[[], None]) -> Iterator[Ending]:
        """What ends a connection that was opened with this grant; `wake` is called once it is over."""
        ending = Ending(grant, wake)
        self._open[ending] = None
        # It may be over since the door was opened.
        if self._stopping:
            self.stop()
        self._check(ending)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._keep_looking(), name="endings")
        try:
            yield ending
        finally:
            del self._open[ending]

    def stop(self) -> None:
        """The process stops."""
        self._stopping = True
        for ending in self._open:
            ending.stopping = True
            ending.wake()

    async def _keep_looking(self) -> None:
        while self._open:
            await asyncio.sleep(LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        for ending in self._open:
            self._check(ending)

    def _check(self, ending: Ending) -> None:
        if not ending.revoked and not self._keyring.holds(ending.grant):
            ending.revoked = True
            ending.wake()
