"""Commands about quotas."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf
from coordinator.application.ports import Intent
from coordinator.domain.decision import Context, Decision
from coordinator.domain.messages import Command, Millis
from coordinator.domain.quota import QuotaCommand, QuotaSet, QuotaState, answer, decide, quota_stream
from coordinator.wire.answers import Accepted, Answer

APPLIED_SECONDS = 5.0
"""The longest wait of an answer about a quota for this process's own limits."""


class QuotaCommands(Handler[None]):
    """Answers once the limits hold in this process."""

    noun = "quota"
    extended: ClassVar[tuple[type[Command], ...]] = (QuotaSet,)

    def __init__(self, reached: Callable[[int, float], Awaitable[bool]]) -> None:
        """`reached(position, timeout)`: wait until this process's limits are at a position."""
        self._reached = reached

    async def prepare_one(self, intent: Intent) -> Prepared[None]:
        command = cast("QuotaCommand", intent.command)
        return Prepared(intent, self, quota_stream(command.name), None)

    def decide(self, prepared: Prepared[None], state_of: StateOf, now: Millis) -> Decision:
        state: QuotaState = state_of(prepared.stream)
        return decide(
            state, cast("QuotaCommand", prepared.intent.command), Context(now, prepared.intent.principal)
        )

    def answer(self, prepared: Prepared[None], state: QuotaState) -> dict[str, Any]:
        return answer(state, cast("QuotaCommand", prepared.intent.command))

    async def extend(self, prepared: Prepared[None], answer: Accepted) -> Answer:
        """The answer waits until this process has the change."""
        await self._reached(answer.position, APPLIED_SECONDS)
        return answer
