"""Key: an API key that an admin made at run time.

create -> generation 1 --rotate--> generation 2 … --revoke--> revoked (for good)

A key proves one name in one role, and neither ever changes. Its secret is not here: an event holds a random
salt and a digest of the secret, from which nobody can get the secret, and with which nobody can sign. Who
holds the coordinator's own signing key derives the secret from the salt (see `coordinator.crypto.api_keys`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.facts import Facts
from coordinator.domain.job import IdempotencyKey
from coordinator.domain.messages import SYSTEM, Command, Digest, Event, Millis, Name, Principal, Role, Text

MAX_GRACE_SECONDS = 30 * 86_400
MAX_LIFE_SECONDS = 10 * 365 * 86_400
MAX_OLD_SECRETS = 8
"""Secrets in their grace that one key may have beside its newest; the oldest end first."""

KeyRole = Literal["client", "miner", "admin"]
Salt = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Label = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")]
Generation = Annotated[int, Field(ge=1, le=1_000_000)]


# --- commands ----------------------------------------------------------------------------------------------
class KeyCreate(Command, topic="key.create", senders={Role.ADMIN}, discloses=True):
    """Make an API key. The answer to the first of them holds its secret, a repeat's does not."""

    name: Name
    """Who speaks with it: what events, receipts and logs show. Several keys may have one name."""
    role: KeyRole
    label: Label = ""
    """For people: what the key is for."""
    expires_in_seconds: Annotated[int, Field(ge=1, le=MAX_LIFE_SECONDS)] | None = None
    signed: bool = False
    """Whether requests over HTTP must carry an HMAC, under a second secret."""
    idempotency_key: IdempotencyKey | None = None


class KeyRotate(Command, topic="key.rotate", senders={Role.ADMIN}, discloses=True):
    """Give a key another secret. Name, role and end stay what they are."""

    key_id: UUID
    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS)] = 0
    """How long the secrets before it are good for; 0 ends them at once."""
    generation: Generation | None = None
    """The generation that is to be replaced: where it is no longer the newest, nothing is done."""


class KeyRevoke(Command, topic="key.revoke", senders={Role.ADMIN}):
    """End a key for good, at once."""

    key_id: UUID
    reason: Text = ""


# --- events ------------------------------------------------------------------------------------------------
class KeyEvent(Event):
    key_id: UUID
    name: Name


class KeyCreated(KeyEvent, topic="key.created.v1"):
    role: KeyRole
    label: Label
    expires_at: Millis | None
    signed: bool
    salt: Salt
    digest: Digest
    """SHA-256 over the salt's bytes and the secret."""


class KeyRotated(KeyEvent, topic="key.rotated.v1"):
    generation: Generation
    salt: Salt
    digest: Digest
    old_until: Millis
    """When all secrets before this one end."""


class KeyRevoked(KeyEvent, topic="key.revoked.v1"):
    reason: Text


# --- states ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Secret:
    """What there is to know of one secret without knowing it."""

    generation: int
    salt: str
    digest: str
    until: Millis | None
    """When it ends; None where only the key's own end ends it."""


@dataclass(frozen=True, slots=True)
class Active:
    created: KeyCreated
    secrets: tuple[Secret, ...]
    """Newest last."""

    @property
    def newest(self) -> Secret:
        return self.secrets[-1]

    @property
    def principal(self) -> Principal:
        return Principal(self.created.name, Role(self.created.role))

    def over(self, now: Millis) -> bool:
        """Whether the key's time is up."""
        return self.created.expires_at is not None and self.created.expires_at <= now


@dataclass(frozen=True, slots=True)
class Revoked:
    created: KeyCreated
    generation: int


KeyState = Active | Revoked | None

initial: KeyState = None


def evolve(state: KeyState, event: Event) -> KeyState:
    """The state after one event."""
    match state, event:
        case None, KeyCreated():
            return Active(event, (Secret(1, event.salt, event.digest, None),))
        case Active(), KeyRotated():
            old = tuple(_ending(secret, event.old_until) for secret in state.secrets)
            kept = tuple(s for s in old if s.until is not None and s.until > event.at)[-MAX_OLD_SECRETS:]
            return Active(state.created, (*kept, Secret(event.generation, event.salt, event.digest, None)))
        case Active(), KeyRevoked():
            return Revoked(state.created, state.newest.generation)
    raise ValueError(f"{event.topic} can't follow {type(state).__name__}")


def decide(state: KeyState, command: Command, facts: Facts) -> list[Event]:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case KeyCreate():
            return _create(state, command, facts)
        case KeyRotate():
            return _rotate(state, command, facts)
        case KeyRevoke():
            if isinstance(state, Revoked):
                return []
            if not isinstance(state, Active):
                raise _not_found()
            return [KeyRevoked(**_common(state.created, facts), reason=command.reason)]
    raise Refusal(Code.UNKNOWN_COMMAND, f"a key does not know {command.topic}")


def answer(state: KeyState, command: Command) -> dict[str, Any]:
    """What the sender of an accepted (or repeated) command is told, from the state after it."""
    assert state is not None
    created = state.created
    told: dict[str, Any] = {
        "key_id": str(created.key_id),
        "name": created.name,
        "role": created.role,
        "state": "ACTIVE" if isinstance(state, Active) else "REVOKED",
        "generation": state.newest.generation if isinstance(state, Active) else state.generation,
        "expires_at": created.expires_at,
        "signed": created.signed,
    }
    return told


def _create(state: KeyState, command: KeyCreate, facts: Facts) -> list[Event]:
    if state is not None:
        if _request(command) != _created(state.created):
            raise Refusal(
                Code.IDEMPOTENCY_MISMATCH, "this idempotency key was used for another key; take a new one"
            )
        return []
    if command.name == SYSTEM.name:
        raise Refusal(Code.INVALID_PAYLOAD, f"name: {SYSTEM.name} is the coordinator itself")
    life = command.expires_in_seconds
    return [
        KeyCreated(
            at=facts.now,
            by=facts.principal.name,
            key_id=facts.stream,
            name=command.name,
            role=command.role,
            label=command.label,
            expires_at=None if life is None else facts.now + life * 1000,
            signed=command.signed,
            salt=facts.key_salt,
            digest=facts.key_digest,
        )
    ]


def _rotate(state: KeyState, command: KeyRotate, facts: Facts) -> list[Event]:
    if isinstance(state, Revoked):
        raise Refusal(Code.CONFLICT_STATE, "the key is revoked; create another one")
    if not isinstance(state, Active):  # also where the id is a job's or a miner's
        raise _not_found()
    if state.over(facts.now):
        raise Refusal(Code.CONFLICT_STATE, "the key's time is up; create another one")
    newest = state.newest.generation
    if command.generation not in (None, newest):
        raise Refusal(Code.CONFLICT_STATE, f"the key is at generation {newest} by now")
    return [
        KeyRotated(
            **_common(state.created, facts),
            generation=newest + 1,
            salt=facts.key_salt,
            digest=facts.key_digest,
            old_until=facts.now + command.grace_seconds * 1000,
        )
    ]


def _ending(secret: Secret, until: Millis) -> Secret:
    return replace(secret, until=until if secret.until is None else min(secret.until, until))


def _request(command: KeyCreate) -> tuple[object, ...]:
    return (command.name, command.role, command.label, command.expires_in_seconds, command.signed)


def _created(event: KeyCreated) -> tuple[object, ...]:
    life = None if event.expires_at is None else (event.expires_at - event.at) // 1000
    return (event.name, event.role, event.label, life, event.signed)


def _common(created: KeyCreated, facts: Facts) -> dict[str, Any]:
    return {"at": facts.now, "by": facts.principal.name, "key_id": created.key_id, "name": created.name}


def _not_found() -> Refusal:
    return Refusal(Code.KEY_NOT_FOUND, "no such key; keys in the settings are changed there")
