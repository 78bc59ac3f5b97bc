"""The end of open connections: the process stops, or their key is revoked or expires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coordinator.application.keys.keyring import Grant, Keyring

CHECK_SECONDS = 15.0
"""Between checks for expired keys; revoked ones are noticed immediately."""


class Revocation:
    """The revocation of one open connection."""

    __slots__ = ("grant", "revoked", "stopping", "wake")

    def __init__(self, grant: Grant, wake: Callable[[], None]) -> None:
        self.grant = grant
        self.wake = wake
        self.revoked = False
        """Whether the key is no longer valid."""
        self.stopping = False
        """Whether the process stops."""

    @property
    def over(self) -> bool:
        return self.revoked or self.stopping


class Revocations:
    """The revocations of all open connections of this process. Used on the event loop only."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._open: dict[Revocation, None] = {}
        self._checking: asyncio.Task[None] | None = None
        self._stopping = False
        keyring.on_change(self._check_all)

    @contextmanager
    def watch(self, grant: Grant, wake: Callable[[], None]) -> Iterator[Revocation]:
        """The revocation of a connection that was opened with this grant; calls `wake` on revocation."""
        revocation = Revocation(grant, wake)
        self._open[revocation] = None
        # The grant may have ended since authentication.
        if self._stopping:
            self.stop()
        self._check(revocation)
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check_regularly(), name="revocations")
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

    async def _check_regularly(self) -> None:
        while self._open:
            await asyncio.sleep(CHECK_SECONDS)
            self._check_all()

    def _check_all(self) -> None:
        for revocation in self._open:
            self._check(revocation)

    def _check(self, revocation: Revocation) -> None:
        if not revocation.revoked and not self._keyring.holds(revocation.grant):
            revocation.revoked = True
            revocation.wake()
