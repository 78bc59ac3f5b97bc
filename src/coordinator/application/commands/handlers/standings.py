"""Commands about standings."""

from __future__ import annotations

from typing import Any, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf
from coordinator.application.ports import Intent
from coordinator.domain.decision import Context, Decision
from coordinator.domain.messages import Millis
from coordinator.domain.standing import StandingCommand, StandingState, answer, decide, standing_stream


class StandingCommands(Handler[None]):
    """Nothing but the rules."""

    noun = "standing"

    async def prepare_one(self, intent: Intent) -> Prepared[None]:
        command = cast("StandingCommand", intent.command)
        return Prepared(intent, self, standing_stream(command.principal, command.service), None)

    def decide(self, prepared: Prepared[None], state_of: StateOf, now: Millis) -> Decision:
        state: StandingState = state_of(prepared.stream)
        command = cast("StandingCommand", prepared.intent.command)
        return decide(state, command, Context(now, prepared.intent.principal))

    def answer(self, prepared: Prepared[None], state: StandingState) -> dict[str, Any]:
        return answer(state, cast("StandingCommand", prepared.intent.command))
