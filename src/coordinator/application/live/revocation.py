"""What ends connections that stay open: the process stops, or their key is revoked or expires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coordinator.application.keys.keyring import Grant, Keyring

LOOK_SECONDS = 15.0
"""Between looks at keys that may have expired; a revoked one is noticed at once."""


class Revocation:
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


class Revocations:
    """All open connections of this process. Used on the event loop only."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._open: dict[Revocation, None] = {}
        self._looking: asyncio.Task[None] | None = None
        self._stopping = False
        keyring.on_change(self._look)

    @contextmanager
    def watch(self, grant: Grant, wake: Callable[[], None]) -> Iterator[Revocation]:
        """What ends a connection that was opened with this grant; `wake` is called once it is over."""
        revocation = Revocation(grant, wake)
        self._open[revocation] = None
        # It may be over since the door was opened.
        if self._stopping:
            self.stop()
        self._check(revocation)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._keep_looking(), name="revocations")
        try:
            yield revocation
        finally:
            del self._open[revocation]

    def stop(self) -> None:
        """The process stops."""
        self._stopping = True
        for revocation in self._open:
            revocation.stopping = True
            revocation.wake()

    async def _keep_looking(self) -> None:
        while self._open:
            await asyncio.sleep(LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        for revocation in self._open:
            self._check(revocation)

    def _check(self, revocation: Revocation) -> None:
        if not revocation.revoked and not self._keyring.holds(revocation.grant):
            revocation.revoked = True
            revocation.wake()
