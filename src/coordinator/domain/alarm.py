"""Alarm: a fault of the coordinator itself that its operators are told of, once.

    nothing --raise--> RAISED

One stream for each fault (its type, subject and position), so a repeat gives no second event. An auditor
raises `audit.diverged`, with the kind and the position of the first divergence. The coordinator raises
`follower.stopped`, with the follower's name and the position after which it can't go on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeGuard
from uuid import UUID

from pydantic import Field, StringConstraints

from coordinator.domain.decision import Context, Decision, evolves, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import CannotFollow, Command, Event, Role, stream_id

AlarmType = Literal["audit.diverged", "follower.stopped"]
Subject = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,62}$")]
Detail = Annotated[str, StringConstraints(max_length=500)]
LogPosition = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


# --- commands ----------------------------------------------------------------------------------------------
class AlarmRaise(Command, topic="alarm.raise", senders={Role.ADMIN, Role.SYSTEM}):
    """Tell operators of a fault. An admin (an auditor) tells of divergences only."""

    type: AlarmType
    subject: Subject
    """What is wrong: the kind of a divergence, or the name of a follower."""
    fault_position: LogPosition
    """The position of the log at which it is."""
    detail: Detail = ""
    """For people. It is in the log, so no payload and no secret may be in it."""


AlarmCommand = AlarmRaise
"""Every command about an alarm."""


# --- events ------------------------------------------------------------------------------------------------
class AlarmRaised(Event, topic="alarm.raised.v1"):
    type: AlarmType
    subject: Subject
    fault_position: LogPosition
    detail: Detail


AlarmEvent = AlarmRaised
"""Every event of an alarm."""


def is_alarm_event(event: Event) -> TypeGuard[AlarmEvent]:
    """Whether this is an event of an alarm."""
    return isinstance(event, AlarmRaised)


# --- state -------------------------------------------------------------------------------------------------
AlarmState = AlarmRaised | None

initial: AlarmState = None


def alarm_stream(type_: str, subject: str, fault_position: int) -> UUID:
    """The id of this fault's stream."""
    return stream_id("alarm", type_, subject, str(fault_position))


@evolves("alarm")
def evolve(state: AlarmState, event: AlarmEvent) -> AlarmState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    if state is not None:
        raise CannotFollow(state, event)
    return event


def decide(state: AlarmState, command: AlarmCommand, context: Context) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    if command.type != "audit.diverged" and context.principal.role is not Role.SYSTEM:
        raise Refusal(Code.FORBIDDEN, f"the coordinator alone raises {command.type}")
    if state is not None:
        return []
    event = AlarmRaised(
        at=context.now,
        by=context.principal.name,
        type=command.type,
        subject=command.subject,
        fault_position=command.fault_position,
        detail=command.detail,
    )
    return on(alarm_stream(command.type, command.subject, command.fault_position), [event])


def answer(state: AlarmState, command: AlarmCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    return {"type": command.type, "subject": command.subject, "fault_position": command.fault_position}
