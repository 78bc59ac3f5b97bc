"""Key: an API key that an admin made at run time.

create -> generation 1 --rotate--> generation 2 … --revoke--> revoked (for good)

A key proves one name in one role, and neither ever changes. Its secret is not here: an event holds a random
salt and a digest of the secret, from which nobody can get the secret, and with which nobody can sign. Who
holds the coordinator's own signing key derives the secret from the salt (see `coordinator.crypto.api_keys`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard, assert_never
from uuid import UUID

from pydantic import Field, StringConstraints

from coordinator.domain.decision import Context, Decision, evolves, on
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import (
    SYSTEM,
    CannotFollow,
    Command,
    Digest,
    Event,
    IdempotencyKey,
    Millis,
    Name,
    Principal,
    Role,
    Text,
    stream_id,
)

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


KeyCommand = KeyCreate | KeyRotate | KeyRevoke
"""Every command about an API key."""


# --- events ------------------------------------------------------------------------------------------------
class OfKey(Event):
    """What all events of an API key have."""

    key_id: UUID
    name: Name


class KeyCreated(OfKey, topic="key.created.v1"):
    role: KeyRole
    label: Label
    expires_at: Millis | None
    signed: bool
    salt: Salt
    digest: Digest
    """SHA-256 over the salt's bytes and the secret."""


class KeyRotated(OfKey, topic="key.rotated.v1"):
    generation: Generation
    salt: Salt
    digest: Digest
    old_until: Millis
    """When all secrets before this one end."""


class KeyRevoked(OfKey, topic="key.revoked.v1"):
    reason: Text


KeyEvent = KeyCreated | KeyRotated | KeyRevoked
"""Every event of an API key."""


def is_key_event(event: Event) -> TypeGuard[KeyEvent]:
    """Whether this is an event of an API key."""
    return isinstance(event, OfKey)


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


def key_stream(admin: str, idempotency_key: str) -> UUID:
    """The id of the API key that `admin` made under this idempotency key."""
    return stream_id("key", admin, idempotency_key)


@evolves("key")
def evolve(state: KeyState, event: KeyEvent) -> KeyState:
    """The state after one event. Raises CannotFollow for a log that the decisions would not write."""
    match event:
        case KeyCreated():
            if state is None:
                return Active(event, (Secret(1, event.salt, event.digest, None),))
        case KeyRotated():
            if isinstance(state, Active):
                old = tuple(_ending(secret, event.old_until) for secret in state.secrets)
                kept = tuple(s for s in old if s.until is not None and s.until > event.at)[-MAX_OLD_SECRETS:]
                new = Secret(event.generation, event.salt, event.digest, None)
                return Active(state.created, (*kept, new))
        case KeyRevoked():
            if isinstance(state, Active):
                return Revoked(state.created, state.newest.generation)
        case _:
            assert_never(event)
    raise CannotFollow(state, event)


class SecretContext(NamedTuple):
    """Of a command that gives a key a secret; made with the command, never stale."""

    now: Millis
    principal: Principal
    key_id: UUID
    """The stream that is decided: the id of a new key."""
    salt: str
    digest: str
    """What an event holds of the secret."""


def decide(state: KeyState, command: KeyCommand, context: SecretContext | Context) -> Decision:
    """The events that `command` leads to; none for a repeat. Raises `Refusal`."""
    match command:
        case KeyCreate():
            assert isinstance(context, SecretContext)
            return on(context.key_id, _create(state, command, context))
        case KeyRotate():
            assert isinstance(context, SecretContext)
            return on(command.key_id, _rotate(state, command, context))
        case KeyRevoke():
            return on(command.key_id, _revoke(state, command, context))
        case _:
            assert_never(command)


def answer(state: KeyState, command: KeyCommand) -> dict[str, Any]:
    """The body of an accepted (or repeated) command's answer, from the state after it."""
    assert state is not None
    created = state.created
    return {
        "key_id": str(created.key_id),
        "name": created.name,
        "role": created.role,
        "state": "ACTIVE" if isinstance(state, Active) else "REVOKED",
        "generation": state.newest.generation if isinstance(state, Active) else state.generation,
        "expires_at": created.expires_at,
        "signed": created.signed,
    }


def _create(state: KeyState, command: KeyCreate, context: SecretContext) -> list[KeyEvent]:
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
            at=context.now,
            by=context.principal.name,
            key_id=context.key_id,
            name=command.name,
            role=command.role,
            label=command.label,
            expires_at=None if life is None else context.now + life * 1000,
            signed=command.signed,
            salt=context.salt,
            digest=context.digest,
        )
    ]


def _rotate(state: KeyState, command: KeyRotate, context: SecretContext) -> list[KeyEvent]:
    if isinstance(state, Revoked):
        raise Refusal(Code.CONFLICT_STATE, "the key is revoked; create another one")
    if not isinstance(state, Active):  # also where the id is a job's or a miner's
        raise _not_found()
    if state.over(context.now):
        raise Refusal(Code.CONFLICT_STATE, "the key's time is up; create another one")
    newest = state.newest.generation
    if command.generation not in (None, newest):
        raise Refusal(Code.CONFLICT_STATE, f"the key is at generation {newest} by now")
    return [
        KeyRotated(
            **_common(state.created, context),
            generation=newest + 1,
            salt=context.salt,
            digest=context.digest,
            old_until=context.now + command.grace_seconds * 1000,
        )
    ]


def _revoke(state: KeyState, command: KeyRevoke, context: SecretContext | Context) -> list[KeyEvent]:
    match state:
        case Active():
            return [KeyRevoked(**_common(state.created, context), reason=command.reason)]
        case Revoked():
            return []
        case None:
            raise _not_found()
        case _:
            assert_never(state)


def _ending(secret: Secret, until: Millis) -> Secret:
    return replace(secret, until=until if secret.until is None else min(secret.until, until))


def _request(command: KeyCreate) -> tuple[object, ...]:
    return (command.name, command.role, command.label, command.expires_in_seconds, command.signed)


def _created(event: KeyCreated) -> tuple[object, ...]:
    life = None if event.expires_at is None else (event.expires_at - event.at) // 1000
    return (event.name, event.role, event.label, life, event.signed)


def _common(created: KeyCreated, context: SecretContext | Context) -> dict[str, Any]:
    return {"at": context.now, "by": context.principal.name, "key_id": created.key_id, "name": created.name}


def _not_found() -> Refusal:
    return Refusal(Code.KEY_NOT_FOUND, "no such key; keys in the settings are changed there")
