"""Key: an API key that an admin creates at run time.

create -> generation 1 --rotate--> generation 2 … --revoke--> revoked (for good)

A key proves one name in one role; neither ever changes. Events never hold the secret, only a random salt and
a digest of the secret. The digest neither gives the secret away nor signs anything. The coordinator derives
the secret from the salt and its own signing key (see `coordinator.crypto.api_keys`).
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
"""Older secrets in their grace period that one key may have; the oldest end first."""

KeyRole = Literal["client", "miner", "viewer", "operator", "admin"]
Salt = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Label = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")]
Generation = Annotated[int, Field(ge=1, le=1_000_000)]


# --- commands ----------------------------------------------------------------------------------------------
class KeyCreate(Command, topic="key.create", senders={Role.ADMIN}, discloses=True):
    """Create an API key. The first answer holds its secret, the answer to a repeat does not."""

    name: Name
    """The principal's name in events, receipts and logs. Several keys may have one name."""
    role: KeyRole
    label: Label = ""
    """The purpose of the key, for people."""
    expires_in_seconds: Annotated[int, Field(ge=1, le=MAX_LIFE_SECONDS)] | None = None
    signed: bool = False
    """Whether HTTP requests must carry an HMAC under a second secret."""
    idempotency_key: IdempotencyKey | None = None


class KeyRotate(Command, topic="key.rotate", senders={Role.ADMIN}, discloses=True):
    """Give a key a new secret. Name, role and expiry stay the same."""

    key_id: UUID
    grace_seconds: Annotated[int, Field(ge=0, le=MAX_GRACE_SECONDS)] = 0
    """How long the older secrets stay valid; 0 ends them at once."""
    generation: Generation | None = None
    """The generation to replace; if it is no longer the newest, the command is refused."""


class KeyRevoke(Command, topic="key.revoke", senders={Role.ADMIN}):
    """End a key for good, at once."""

    key_id: UUID
    reason: Text = ""


KeyCommand = KeyCreate | KeyRotate | KeyRevoke
"""Every command about an API key."""


# --- events ------------------------------------------------------------------------------------------------
class KeyEventBase(Event):
    """The fields of every event of an API key."""

    key_id: UUID
    name: Name


class KeyCreated(KeyEventBase, topic="key.created.v1"):
    role: KeyRole
    label: Label
    expires_at: Millis | None
    signed: bool
    salt: Salt
    digest: Digest
    """SHA-256 over the salt's bytes and the secret."""


class KeyRotated(KeyEventBase, topic="key.rotated.v1"):
    generation: Generation
    salt: Salt
    digest: Digest
    old_until: Millis
    """The end of all older secrets."""


class KeyRevoked(KeyEventBase, topic="key.revoked.v1"):
    reason: Text


KeyEvent = KeyCreated | KeyRotated | KeyRevoked
"""Every event of an API key."""


def is_key_event(event: Event) -> TypeGuard[KeyEvent]:
    """Whether this is an event of an API key."""
    return isinstance(event, KeyEventBase)


# --- states ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Secret:
    """The public facts of one secret."""

    generation: int
    salt: str
    digest: str
    until: Millis | None
    """The end of the secret; None if it ends with the key."""


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

    def is_expired(self, now: Millis) -> bool:
        """Whether the key has expired."""
        return self.created.expires_at is not None and self.created.expires_at <= now


@dataclass(frozen=True, slots=True)
class Revoked:
    created: KeyCreated
    generation: int


KeyState = Active | Revoked | None

initial: KeyState = None


def key_stream(admin: str, idempotency_key: str) -> UUID:
    """The id of the API key that `admin` created under this idempotency key."""
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
    """The facts for a command that gives a key a secret; made with the command, never stale."""

    now: Millis
    principal: Principal
    key_id: UUID
    """The stream of the decision; for `key.create` the id of the new key."""
    salt: str
    digest: str
    """Of the secret, as in `KeyCreated`."""


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
                Code.IDEMPOTENCY_MISMATCH, "this idempotency key was used for another API key; use a new one"
            )
        return []
    if command.name == SYSTEM.name:
        raise Refusal(Code.INVALID_PAYLOAD, f"name: {SYSTEM.name} is reserved; choose another name")
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
    if state.is_expired(context.now):
        raise Refusal(Code.CONFLICT_STATE, "the key has expired; create another one")
    newest = state.newest.generation
    if command.generation not in (None, newest):
        raise Refusal(Code.CONFLICT_STATE, f"the key is at generation {newest} already; rotate that one")
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
    return Refusal(Code.KEY_NOT_FOUND, "no such key; change a key of the settings in the settings")
