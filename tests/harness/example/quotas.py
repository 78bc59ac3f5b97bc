"""Commands about quotas."""

from __future__ import annotations

from typing import Any, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf
from coordinator.application.ports import Intent
from coordinator.domain.decision import Decision
from coordinator.domain.messages import Millis
from tests.harness.example.quota import MoveContext, QuotaMove, QuotaState, decide, quota_stream


class QuotaCommands(Handler[None]):
    noun = "quota"

    async def prepare_one(self, intent: Intent) -> Prepared[None]:
        command = cast("QuotaMove", intent.command)
        giver = () if command.take_from is None else (quota_stream(command.take_from),)
        return Prepared(intent, self, quota_stream(command.to), None, writes=giver)

    def decide(self, prepared: Prepared[None], state_of: StateOf, now: Millis) -> Decision:
        command = cast("QuotaMove", prepared.intent.command)
        giver = state_of(prepared.writes[0]) if prepared.writes else None
        context = MoveContext(now, prepared.intent.principal, giver)
        return decide(state_of(prepared.stream), command, context)

    def answer(self, prepared: Prepared[None], state: QuotaState) -> dict[str, Any]:
        assert state is not None
        return {"client": state.client, "jobs": state.jobs}
