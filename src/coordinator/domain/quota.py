"""Quota: the limits of one name, where an admin has set others than the settings have.

    nothing --set--> limits of its own --set--> others …

A limit holds for the name: all keys of that name share it. The events hold the whole set of a name's own
limits, so that the last event says it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, assert_never
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from coordinator.domain.decision import Context, Decision, evolves, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import (
    SYSTEM,
    CannotFollow,
    Command,
    Event,
    Name,
    Role,
    Text,
    stream_id,
)

UNLIMITED: Literal["unlimited"] = "unlimited"
MAX_LIMIT = 2**53 - 1
"""The greatest whole number that every JSON reader keeps exactly."""
HIGHEST_PRIORITY = 9

Limit = Annotated[int, Field(strict=True, ge=0, le=MAX_LIMIT)] | Literal["unlimited"] | None
"""A number, 0 for nothing at all; `unlimited`; or null for the limit of the settings."""
PriorityLimit = Annotated[int, Field(strict=True, ge=0, le=HIGHEST_PRIORITY)] | None


class OwnLimits(BaseModel):
    """The limits of one name; null where the settings' limit applies."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    queued_jobs: Limit = None
    """Jobs that wait for a miner."""
    stored_bytes: Limit = None
    """Bytes of payloads, results and uploaded files."""
    commands_per_minute: Limit = None
    """Commands over AMQP and HTTP together."""
    miners: Limit = None
    """Miners (nodes) with a session."""
    profiles: Limit = None
    """Different profiles of these miners, each of which has a work queue."""
    max_priority: PriorityLimit = None
    """The highest priority of a submitted job."""


KINDS = tuple(OwnLimits.model_fields)
"""The names of all limits."""


# --- commands ----------------------------------------------------------------------------------------------
class QuotaSet(Command, topic="quota.set", senders={Role.ADMIN}):
    """Change limits of a name. Those left out stay; null brings back the limit of the settings."""

    name: Name
    """The name whose keys share the limits."""
    limits: OwnLimits
    reason: Text = ""
    """For readers of the log."""


QuotaCommand = QuotaSet
"""Every command about a quota."""


# --- events ------------------------------------------------------------------------------------------------
class QuotaWasSet(Event, topic="quota.was_set.v1"):
    name: Name
    limits: OwnLimits
    """All of the name's own limits from here on."""
    reason: Text


QuotaEvent = QuotaWasSet
"""Every event of a quota."""


def is_quota_event(event: Event) -> TypeGuard[QuotaEvent]:
    """Whether this is an event of a quota."""
    return isinstance(event, QuotaWasSet)


# --- state -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Quota:
    """The own limits of a name."""

    name: str
    limits: OwnLimits


QuotaState = Quota | None

initial: QuotaState = None


def quota_stream(name: str) -> UUID:
    """The id of this name's stream."""
    return stream_id("quota", name)


@evolves("quota")
def evolve(state: QuotaState, event: QuotaEvent) -> QuotaState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    if state is not None and state.name != event.name:
        raise CannotFollow(state, event)
    match event:
        case QuotaWasSet():
            return Quota(event.name, event.limits)
        case _:
            assert_never(event)


def decide(state: QuotaState, command: QuotaCommand, context: Context) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case QuotaSet():
            if command.name == SYSTEM.name:
                raise Refusal(Code.INVALID_PAYLOAD, f"name: {SYSTEM.name} is reserved and has no limits")
            before = OwnLimits() if state is None else state.limits
            given = {name: getattr(command.limits, name) for name in command.limits.model_fields_set}
            after = before.model_copy(update=given)
            if after == before:
                return []
            event = QuotaWasSet(
                at=context.now,
                by=context.principal.name,
                name=command.name,
                limits=after,
                reason=command.reason,
            )
            return on(quota_stream(command.name), [event])
        case _:
            assert_never(command)


def answer(state: QuotaState, command: QuotaCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    limits = OwnLimits() if state is None else state.limits
    return {"name": command.name, "own_limits": limits.model_dump()}


# --- limits in force ---------------------------------------------------------------------------------------
class Limits(NamedTuple):
    """The limits in force for one name; None: no limit."""

    queued_jobs: int | None = None
    stored_bytes: int | None = None
    commands_per_minute: int | None = None
    miners: int | None = None
    profiles: int | None = None
    max_priority: int = HIGHEST_PRIORITY

    def with_own(self, own: OwnLimits) -> Limits:
        """These limits, replaced by the name's own where it has some."""
        given: dict[str, Any] = {
            name: None if value == UNLIMITED else value for name, value in own if value is not None
        }
        return self._replace(**given)
