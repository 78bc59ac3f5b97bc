"""Commands about budgets."""

from __future__ import annotations

from typing import Any, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf
from coordinator.application.ports import Intent
from coordinator.domain.decision import Decision
from coordinator.domain.messages import Millis
from tests.harness.example.budget import BudgetMove, BudgetState, MoveContext, budget_stream, decide


class BudgetCommands(Handler[None]):
    noun = "budget"

    async def prepare_one(self, intent: Intent) -> Prepared[None]:
        command = cast("BudgetMove", intent.command)
        giver = () if command.take_from is None else (budget_stream(command.take_from),)
        return Prepared(intent, self, budget_stream(command.to), None, writes=giver)

    def decide(self, prepared: Prepared[None], state_of: StateOf, now: Millis) -> Decision:
        command = cast("BudgetMove", prepared.intent.command)
        giver = state_of(prepared.writes[0]) if prepared.writes else None
        context = MoveContext(now, prepared.intent.principal, giver)
        return decide(state_of(prepared.stream), command, context)

    def answer(self, prepared: Prepared[None], state: BudgetState) -> dict[str, Any]:
        assert state is not None
        return {"client": state.client, "jobs": state.jobs}
