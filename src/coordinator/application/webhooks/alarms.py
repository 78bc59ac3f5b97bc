"""Alarms of this process: a follower that stopped is put into the log, and so told to receivers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from coordinator.application.background import Background
from coordinator.application.ports import Intent
from coordinator.domain.alarm import AlarmRaise
from coordinator.domain.messages import SYSTEM
from coordinator.wire.answers import Answer, Refused

log = structlog.get_logger("alarms")


class Alarms:
    """Raises alarms. A component that only has to be stopped."""

    def __init__(self, handle: Callable[[Sequence[Intent]], Awaitable[list[Answer]]]) -> None:
        self._handle = handle
        self._raising = Background("alarm")

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        await self._raising.stop()

    def follower_stopped(self, follower: str, position: int, error: Exception) -> None:
        """A follower can't go on after this position. On the event loop."""
        # The error's text may quote an event; its kind does not.
        detail = f"{type(error).__name__}; `/health` of the process that led it says more"
        command = AlarmRaise(
            type="follower.stopped", subject=follower, fault_position=position, detail=detail
        )
        self._raising.spawn(self._raise(command))

    async def _raise(self, command: AlarmRaise) -> None:
        [answer] = await self._handle([Intent(command, SYSTEM)])
        if isinstance(answer, Refused):
            log.warning("an alarm could not be recorded", subject=command.subject, detail=answer.detail)
