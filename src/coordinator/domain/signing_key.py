"""The coordinator's signing key: which key was in force from which position of the log on.

    introduce -> IN_FORCE --introduce another--> IN_FORCE

One stream for the whole log. The coordinator records its key at each start; a key that is in force already
gives no event. A new key retires the one before it. The log holds public keys only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeGuard
from uuid import UUID

from coordinator.domain.decision import Context, Decision, evolves, on
from coordinator.domain.messages import Command, Event, PublicKey, Role, stream_id

SIGNING_KEYS: Final[UUID] = stream_id("signing_key", "coordinator")
"""The id of the stream."""


class SigningKeyIntroduce(Command, topic="signing_key.introduce", senders={Role.SYSTEM}):
    """Sign with this key from now on."""

    key_id: PublicKey


SigningKeyCommand = SigningKeyIntroduce
"""Every command about the signing key."""


class SigningKeyIntroduced(Event, topic="signing_key.introduced.v1"):
    """Receipts of later events are signed with this key."""

    key_id: PublicKey
    retires: PublicKey | None
    """The key that was in force until now; None for the first one."""


SigningKeyEvent = SigningKeyIntroduced
"""Every event of the signing key."""


def is_signing_key_event(event: Event) -> TypeGuard[SigningKeyEvent]:
    """Whether this is an event of the signing key."""
    return isinstance(event, SigningKeyIntroduced)


@dataclass(frozen=True, slots=True)
class InForce:
    """The key that signs."""

    key_id: str


SigningKeyState = InForce | None
initial: SigningKeyState = None


@evolves("signing_key")
def evolve(state: SigningKeyState, event: SigningKeyEvent) -> SigningKeyState:
    """The state after one event."""
    return InForce(event.key_id)


def decide(state: SigningKeyState, command: SigningKeyCommand, context: Context) -> Decision:
    """The events that `command` leads to; none if the key is in force already."""
    if state is not None and state.key_id == command.key_id:
        return []
    introduced = SigningKeyIntroduced(
        at=context.now,
        by=context.principal.name,
        key_id=command.key_id,
        retires=None if state is None else state.key_id,
    )
    return on(SIGNING_KEYS, [introduced])


def answer(state: SigningKeyState, command: SigningKeyCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    return {"key_id": command.key_id}
