"""Commands about alarms."""

from __future__ import annotations

from typing import Any, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf
from coordinator.application.ports import Intent
from coordinator.domain.alarm import AlarmCommand, AlarmState, alarm_stream, answer, decide
from coordinator.domain.decision import Context, Decision
from coordinator.domain.messages import Millis


class AlarmCommands(Handler[None]):
    """Records each fault once."""

    noun = "alarm"

    async def prepare_one(self, intent: Intent) -> Prepared[None]:
        command = cast("AlarmCommand", intent.command)
        stream = alarm_stream(command.type, command.subject, command.fault_position)
        return Prepared(intent, self, stream, None)

    def decide(self, prepared: Prepared[None], state_of: StateOf, now: Millis) -> Decision:
        state: AlarmState = state_of(prepared.stream)
        command = cast("AlarmCommand", prepared.intent.command)
        return decide(state, command, Context(now, prepared.intent.principal))

    def answer(self, prepared: Prepared[None], state: AlarmState) -> dict[str, Any]:
        return answer(state, cast("AlarmCommand", prepared.intent.command))
