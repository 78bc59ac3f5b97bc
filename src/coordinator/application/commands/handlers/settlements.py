"""Commands about settlement batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, NamedTuple, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf, log_unavailable
from coordinator.application.payloads.service_versions import States
from coordinator.application.ports import Intent, LogUnavailable
from coordinator.domain.account import OUTSIDE, SETTLEMENT, AccountState, account_stream
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Command, Millis
from coordinator.domain.settlement import (
    BatchPlan,
    CloseContext,
    PartContext,
    Settlement,
    SettlementClose,
    SettlementCommand,
    SettlementConfirm,
    SettlementRefuse,
    SettlementState,
    SinkTerms,
    answer,
    decide,
    settlement_stream,
)
from coordinator.wire.answers import Accepted, Answer

APPLIED_SECONDS = 5.0
"""The longest wait for the tables."""


class BatchDetails(NamedTuple):
    """The facts that a command about a batch needs."""

    plan: BatchPlan | None
    """Of a close."""
    parties: tuple[str, ...]
    """Whose accounts the decision may append to."""


class SettlementCommands(Handler[BatchDetails]):
    """Finds the accounts of a batch."""

    noun = "settlement"
    extended: ClassVar[tuple[type[Command], ...]] = (SettlementClose, SettlementConfirm, SettlementRefuse)

    def __init__(
        self,
        states: States,
        sink: SinkTerms | None,
        plan: Callable[[], Awaitable[BatchPlan]] | None,
        reached: Callable[[int, float], Awaitable[bool]],
    ) -> None:
        """`sink`, `plan`: None where nobody is paid out; all commands are refused then.

        `reached`: waits until the tables of batches are at a position.
        """
        self._states = states
        self._sink = sink
        self._plan = plan
        self._reached = reached

    async def prepare_one(self, intent: Intent) -> Prepared[BatchDetails]:
        if self._sink is None or self._plan is None:
            raise Refusal(
                Code.CONFLICT_STATE, "no batches are settled here; the operator sets SETTLEMENT_SINK"
            )
        command = cast("SettlementCommand", intent.command)
        try:
            if isinstance(command, SettlementClose):
                return await self._close(intent, command)
            stream = settlement_stream(command.number)
            parties: tuple[str, ...] = ()
            if isinstance(command, SettlementConfirm):
                parties = (SETTLEMENT, OUTSIDE)
            elif isinstance(command, SettlementRefuse):
                batch: SettlementState = (await self._states((stream,), fresh=True))[stream]
                parties = (SETTLEMENT, *_payees(batch))
            return self._prepared(intent, command.number, BatchDetails(None, parties))
        except LogUnavailable:
            raise log_unavailable() from None

    async def _close(self, intent: Intent, command: SettlementClose) -> Prepared[BatchDetails]:
        assert self._plan is not None
        plan = await self._plan()
        number = plan.number if command.number is None else command.number
        if number > plan.number:
            raise Refusal(Code.CONFLICT_STATE, f"the next batch has the number {plan.number}")
        if number < plan.number:  # a repeat
            return self._prepared(intent, number, BatchDetails(plan, ()))
        return self._prepared(intent, number, BatchDetails(plan, (*plan.parties, SETTLEMENT)))

    def _prepared(self, intent: Intent, number: int, details: BatchDetails) -> Prepared[BatchDetails]:
        return Prepared(
            intent,
            self,
            settlement_stream(number),
            details,
            reads=(settlement_stream(number - 1),) if details.plan is not None and number > 1 else (),
            writes=tuple(account_stream(party) for party in details.parties),
        )

    def decide(self, prepared: Prepared[BatchDetails], state_of: StateOf, now: Millis) -> Decision:
        command, principal = cast("SettlementCommand", prepared.intent.command), prepared.intent.principal
        state: SettlementState = state_of(prepared.stream)
        plan, parties = prepared.details
        accounts: dict[str, AccountState] = {party: state_of(account_stream(party)) for party in parties}
        if plan is None:
            if isinstance(command, SettlementRefuse) and not set(_payees(state)) <= set(parties):
                # The part ended while the command waited: its payees are others now.
                raise Refusal(Code.CONFLICT_STATE, "the part has just changed; look at the batch again")
            return decide(state, command, PartContext(now, principal, accounts))
        assert self._sink is not None
        before = state_of(settlement_stream(plan.number - 1)) if plan.number > 1 and state is None else None
        return decide(state, command, CloseContext(now, principal, plan, before, accounts, self._sink))

    async def extend(self, prepared: Prepared[BatchDetails], answer: Accepted) -> Answer:
        """The answer waits until the batch is in the tables."""
        await self._reached(answer.position, APPLIED_SECONDS)
        return answer

    def answer(self, prepared: Prepared[BatchDetails], state: Any) -> dict[str, Any]:
        return answer(state, cast("SettlementCommand", prepared.intent.command))


def _payees(batch: Settlement | None) -> tuple[str, ...]:
    """Those of the current part."""
    return () if batch is None else tuple(payout.party for payout in batch.in_part)
