"""Budget: how many jobs a client may have queued, and who gave it that.

nothing --moved in--> a budget --moved out--> a smaller one …
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, assert_never
from uuid import UUID

from pydantic import Field

from coordinator.domain.decision import Decision, StreamEvent, evolves
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import CannotFollow, Command, Event, Millis, Name, Principal, Role, stream_id

Jobs = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


# --- commands ----------------------------------------------------------------------------------------------
class BudgetMove(Command, topic="budget.move", senders={Role.ADMIN}):
    """Take some of one client's budget, if there is one to take from, and give it to another."""

    to: Name
    take_from: Name | None = None
    jobs: Jobs


BudgetCommand = BudgetMove


# --- events ------------------------------------------------------------------------------------------------
class OfBudget(Event):
    """What all events of a budget have."""

    client: Name
    jobs: Jobs


class BudgetMovedIn(OfBudget, topic="budget.moved_in.v1"):
    pass


class BudgetMovedOut(OfBudget, topic="budget.moved_out.v1"):
    pass


BudgetEvent = BudgetMovedIn | BudgetMovedOut


# --- state -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Budget:
    client: str
    jobs: int


BudgetState = Budget | None


def budget_stream(client: str) -> UUID:
    """The id of this client's stream."""
    return stream_id("budget", client)


@evolves("budget")
def evolve(state: BudgetState, event: BudgetEvent) -> BudgetState:
    match event:
        case BudgetMovedIn():
            return Budget(event.client, (0 if state is None else state.jobs) + event.jobs)
        case BudgetMovedOut():
            if state is not None:
                return Budget(event.client, state.jobs - event.jobs)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


class MoveContext(NamedTuple):
    """What a move is told."""

    now: Millis
    principal: Principal
    giver: BudgetState
    """The budget that it takes from. Not stale: the decision appends to its stream."""


def decide(state: BudgetState, command: BudgetCommand, context: MoveContext) -> Decision:
    """`state`: the budget that is moved to."""
    common: dict[str, Any] = {"at": context.now, "by": context.principal.name, "jobs": command.jobs}
    moved_in = StreamEvent(budget_stream(command.to), BudgetMovedIn(**common, client=command.to))
    if command.take_from is None:
        return [moved_in]
    if context.giver is None or context.giver.jobs < command.jobs:
        raise Refusal(Code.CONFLICT_STATE, f"{command.take_from} has not that much")
    moved_out = BudgetMovedOut(**common, client=command.take_from)
    return [StreamEvent(budget_stream(command.take_from), moved_out), moved_in]
