"""Quota: how many jobs a client may have queued, and who gave it that.

nothing --moved in--> a quota --moved out--> a smaller one …
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
class QuotaMove(Command, topic="quota.move", senders={Role.ADMIN}):
    """Take some of one client's quota, if there is one to take from, and give it to another."""

    to: Name
    take_from: Name | None = None
    jobs: Jobs


QuotaCommand = QuotaMove


# --- events ------------------------------------------------------------------------------------------------
class OfQuota(Event):
    """What all events of a quota have."""

    client: Name
    jobs: Jobs


class QuotaMovedIn(OfQuota, topic="quota.moved_in.v1"):
    pass


class QuotaMovedOut(OfQuota, topic="quota.moved_out.v1"):
    pass


QuotaEvent = QuotaMovedIn | QuotaMovedOut


# --- state -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Quota:
    client: str
    jobs: int


QuotaState = Quota | None


def quota_stream(client: str) -> UUID:
    """The id of this client's stream."""
    return stream_id("quota", client)


@evolves("quota")
def evolve(state: QuotaState, event: QuotaEvent) -> QuotaState:
    match event:
        case QuotaMovedIn():
            return Quota(event.client, (0 if state is None else state.jobs) + event.jobs)
        case QuotaMovedOut():
            if state is not None:
                return Quota(event.client, state.jobs - event.jobs)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


class MoveContext(NamedTuple):
    """What a move is told."""

    now: Millis
    principal: Principal
    giver: QuotaState
    """The quota that it takes from. Not stale: the decision appends to its stream."""


def decide(state: QuotaState, command: QuotaCommand, context: MoveContext) -> Decision:
    """`state`: the quota that is moved to."""
    common: dict[str, Any] = {"at": context.now, "by": context.principal.name, "jobs": command.jobs}
    moved_in = StreamEvent(quota_stream(command.to), QuotaMovedIn(**common, client=command.to))
    if command.take_from is None:
        return [moved_in]
    if context.giver is None or context.giver.jobs < command.jobs:
        raise Refusal(Code.CONFLICT_STATE, f"{command.take_from} has not that much")
    moved_out = QuotaMovedOut(**common, client=command.take_from)
    return [StreamEvent(quota_stream(command.take_from), moved_out), moved_in]
