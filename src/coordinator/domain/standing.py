"""Standing: whether a principal's miners may get the jobs of a service as others do, or are in quarantine.

    quarantine -> QUARANTINED --release--> FREE

One stream for each principal and service, and one for each principal and all services. The dispatcher asks
for a quarantine after repeated failure, and for its release once a probe job was completed; admins ask for
both as they see fit. The counts that lead there are the dispatcher's (`application/dispatch/standing.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard, assert_never
from uuid import UUID

from coordinator.domain.decision import Context, Decision, evolves, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import (
    CannotFollow,
    Command,
    Event,
    Name,
    Role,
    ServiceId,
    Text,
    stream_id,
)

NEWCOMER_SLOTS = 2
"""The offers and running jobs that a principal without completed jobs of a service may have of it."""
ALONE_SLOTS = 16
"""At least so many while nobody else serves the service: to hold them back would help nobody."""


# --- commands ----------------------------------------------------------------------------------------------
class _StandingCommandBase(Command):
    principal: Name
    """The name of the miners' key."""
    service: ServiceId | None = None
    """None: every service."""
    reason: Text = ""


class StandingQuarantine(
    _StandingCommandBase, topic="standing.quarantine", senders={Role.SYSTEM, Role.OPERATOR, Role.ADMIN}
):
    """Offer a principal no jobs of this service; one probe job at a time if the coordinator asks."""


class StandingRelease(
    _StandingCommandBase, topic="standing.release", senders={Role.SYSTEM, Role.OPERATOR, Role.ADMIN}
):
    """End a quarantine: the principal begins again with few slots."""


StandingCommand = StandingQuarantine | StandingRelease
"""Every command about a standing."""


# --- events ------------------------------------------------------------------------------------------------
class StandingEventBase(Event):
    """The fields of every event of a standing."""

    principal: Name
    service: ServiceId | None
    reason: Text


class StandingQuarantined(StandingEventBase, topic="standing.quarantined.v1"):
    probes: bool
    """Whether the principal gets a probe job now and then, whose completion ends the quarantine. An admin's
    quarantine has none: only an admin ends it."""


class StandingReleased(StandingEventBase, topic="standing.released.v1"):
    """The quarantine is over."""


StandingEvent = StandingQuarantined | StandingReleased
"""Every event of a standing."""


def is_standing_event(event: Event) -> TypeGuard[StandingEvent]:
    """Whether this is an event of a standing."""
    return isinstance(event, StandingEventBase)


# --- states ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Quarantined:
    quarantined: StandingQuarantined


@dataclass(frozen=True, slots=True)
class Released:
    """It was in quarantine once."""


StandingState = Quarantined | Released | None
initial: StandingState = None


def standing_stream(principal: str, service: str | None) -> UUID:
    """The id of the stream of this standing."""
    return stream_id("standing", principal, service or "*")


@evolves("standing")
def evolve(state: StandingState, event: StandingEvent) -> StandingState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    match event:
        case StandingQuarantined():
            return Quarantined(event)
        case StandingReleased():
            if isinstance(state, Quarantined):
                return Released()
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


def decide(state: StandingState, command: StandingCommand, context: Context) -> Decision:
    """The events that `command` leads to; none if it changes nothing. Raises `Refusal`."""
    by_hand = context.principal.role is not Role.SYSTEM
    common: dict[str, Any] = {
        "at": context.now,
        "by": context.principal.name,
        "principal": command.principal,
        "service": command.service,
        "reason": command.reason,
    }
    events: list[StandingEvent] = []
    match command:
        case StandingQuarantine():
            # An admin's quarantine replaces one with probes, and never the other way round.
            if not isinstance(state, Quarantined) or (by_hand and state.quarantined.probes):
                events = [StandingQuarantined(**common, probes=not by_hand)]
        case StandingRelease():
            if isinstance(state, Quarantined):
                if not by_hand and not state.quarantined.probes:
                    raise Refusal(Code.CONFLICT_STATE, "an admin's quarantine is ended by an admin only")
                events = [StandingReleased(**common)]
        case _:
            assert_never(command)
    return on(standing_stream(command.principal, command.service), events)


def answer(state: StandingState, command: StandingCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    return {
        "principal": command.principal,
        "service": command.service,
        "quarantined": isinstance(state, Quarantined),
    }
