"""Miner: a worker node, one session at a time.

    register -> ONLINE --drain--> DRAINING
    ONLINE or DRAINING --leave, lost--> OFFLINE --register (a new session)--> ONLINE

Heartbeats are not events; the timers turn silence into one (`miner.lost.v1`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any, TypeGuard, assert_never
from uuid import UUID

from pydantic import Field

from coordinator.domain.decision import Context, Decision, evolves, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.matching.needs import Capabilities, normalise_capabilities, profile_of
from coordinator.domain.messages import (
    CannotFollow,
    Command,
    Event,
    MinerId,
    PublicKey,
    Role,
    SessionId,
    Text,
    principal_of,
    stream_id,
)

REMEMBERED_SESSIONS = 16  # a register command older than this many newer ones is not recognised as a repeat


# --- commands ----------------------------------------------------------------------------------------------
class MinerRegister(Command, topic="miner.register", senders={Role.MINER}):
    """Begin a session: from now on the process with this session id is the miner."""

    miner_id: MinerId
    session_id: SessionId
    capabilities: Capabilities
    concurrency: Annotated[int, Field(strict=True, ge=1, le=1024)] = 1
    """The most jobs at the same time."""
    public_key: PublicKey
    """The key for this miner's statements of work done."""


class MinerDrain(Command, topic="miner.drain", senders={Role.MINER, Role.OPERATOR, Role.ADMIN}):
    """Finish the miner's jobs and get no new ones. Without a session id: the live session."""

    miner_id: MinerId
    session_id: SessionId | None = None


class MinerLeave(Command, topic="miner.leave", senders={Role.MINER}):
    """End the session; other miners get its unfinished jobs."""

    miner_id: MinerId
    session_id: SessionId


class MinerLose(Command, topic="miner.lose", senders={Role.SYSTEM}):
    """End a session that fell silent (sent by the timers)."""

    miner_id: MinerId
    session_id: SessionId
    reason: Text


MinerCommand = MinerRegister | MinerDrain | MinerLeave | MinerLose
"""Every command about a miner."""


# --- events ------------------------------------------------------------------------------------------------
class MinerEventBase(Event):
    """The fields of every event of a miner."""

    miner_id: MinerId
    session_id: SessionId


class MinerRegistered(MinerEventBase, topic="miner.registered.v1"):
    capabilities: Capabilities
    """Normalised."""
    profile: str
    concurrency: int
    public_key: PublicKey


class MinerDrained(MinerEventBase, topic="miner.drained.v1"):
    """The miner gets no new jobs from here on."""


class MinerLeft(MinerEventBase, topic="miner.left.v1"):
    pass


class MinerLost(MinerEventBase, topic="miner.lost.v1"):
    reason: Text


MinerEvent = MinerRegistered | MinerDrained | MinerLeft | MinerLost
"""Every event of a miner."""


def is_miner_event(event: Event) -> TypeGuard[MinerEvent]:
    """Whether this is an event of a miner."""
    return isinstance(event, MinerEventBase)


# --- states ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Known:
    registered: MinerRegistered
    past: tuple[str, ...] = ()
    """Ids of ended sessions, newest last."""

    @property
    def session_id(self) -> str:
        return self.registered.session_id


@dataclass(frozen=True, slots=True)
class Online(_Known):
    pass


@dataclass(frozen=True, slots=True)
class Draining(_Known):
    """Live, without new jobs."""


@dataclass(frozen=True, slots=True)
class Offline(_Known):
    """Its session is over."""


MinerState = Online | Draining | Offline | None
STATE_NAMES: dict[type, str] = {Online: "ONLINE", Draining: "DRAINING", Offline: "OFFLINE"}

initial: MinerState = None


@functools.lru_cache(4096)
def miner_stream(miner_id: str) -> UUID:
    """The id of this miner's stream."""
    return stream_id("miner", miner_id)


@evolves("miner")
def evolve(state: MinerState, event: MinerEvent) -> MinerState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    match event:
        case MinerRegistered():
            past = () if state is None else (*state.past, state.session_id)[-REMEMBERED_SESSIONS:]
            return Online(event, past)
        case MinerDrained():
            if state is not None:
                return Draining(state.registered, state.past)
        case MinerLeft() | MinerLost():
            if state is not None:
                return Offline(state.registered, state.past)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


def decide(state: MinerState, command: MinerCommand, context: Context) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case MinerRegister():
            _check_speaker(command.miner_id, context)
            events = _register(state, command, context)
        case MinerDrain():
            _check_speaker(command.miner_id, context)
            events = _drain(state, command, context)
        case MinerLeave():
            _check_speaker(command.miner_id, context)
            left = MinerLeft(**_common(command.miner_id, command.session_id, context))
            events = _end(state, command, left)
        case MinerLose():
            common = _common(command.miner_id, command.session_id, context)
            events = _end(state, command, MinerLost(**common, reason=command.reason))
        case _:
            assert_never(command)
    return on(miner_stream(command.miner_id), events)


def answer(state: MinerState, command: MinerCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    assert state is not None
    return {
        "miner_id": state.registered.miner_id,
        "session_id": state.session_id,
        "profile": state.registered.profile,
        "state": STATE_NAMES[type(state)],
    }


def _register(state: MinerState, command: MinerRegister, context: Context) -> list[MinerEvent]:
    if state is not None:
        if state.session_id == command.session_id:
            if isinstance(state, Offline):
                raise _not_live()
            if _request(command) != _registered(state.registered):
                raise Refusal(
                    Code.IDEMPOTENCY_MISMATCH,
                    "this session has other capabilities; register changed ones with a new session id",
                )
            return []
        if command.session_id in state.past:
            raise _not_live()
    return [
        MinerRegistered(
            **_common(command.miner_id, command.session_id, context),
            capabilities=normalise_capabilities(command.capabilities),
            profile=profile_of(command.capabilities, principal_of(command.miner_id)),
            concurrency=command.concurrency,
            public_key=command.public_key,
        )
    ]


def _drain(state: MinerState, command: MinerDrain, context: Context) -> list[MinerEvent]:
    if state is None:
        raise Refusal(Code.MINER_NOT_FOUND, f"no miner {command.miner_id}")
    if command.session_id not in (None, state.session_id) or isinstance(state, Offline):
        raise _not_live()
    if isinstance(state, Draining):
        return []
    return [MinerDrained(**_common(command.miner_id, state.session_id, context))]


def _end(state: MinerState, command: MinerLeave | MinerLose, event: MinerEvent) -> list[MinerEvent]:
    if state is None:
        raise Refusal(Code.MINER_NOT_FOUND, f"no miner {command.miner_id}")
    if state.session_id != command.session_id:
        raise _not_live()
    return [] if isinstance(state, Offline) else [event]


def _request(command: MinerRegister) -> tuple[object, ...]:
    return (normalise_capabilities(command.capabilities), command.concurrency, command.public_key)


def _registered(event: MinerRegistered) -> tuple[object, ...]:
    # Once more: what is normal may have grown since the event was written.
    return (normalise_capabilities(event.capabilities), event.concurrency, event.public_key)


def _common(miner_id: str, session_id: str, context: Context) -> dict[str, Any]:
    return {"at": context.now, "by": context.principal.name, "miner_id": miner_id, "session_id": session_id}


def _check_speaker(miner_id: str, context: Context) -> None:
    if context.principal.role is Role.MINER and not context.principal.owns_miner(miner_id):
        raise Refusal(Code.FORBIDDEN, f"{context.principal.name} can't speak for miner {miner_id}")


def _not_live() -> Refusal:
    return Refusal(Code.SESSION_NOT_LIVE, "this session is over; register again with a new session id")
