"""Commands about API keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, NamedTuple, assert_never, cast
from uuid import UUID

from coordinator.application.commands.handler import Handler, Prepared, StateOf
from coordinator.application.commands.ids import Ids
from coordinator.application.ports import Intent
from coordinator.crypto.api_keys import KeySecrets, digest_of, new_salt
from coordinator.domain.decision import Context, Decision
from coordinator.domain.key import (
    Active,
    KeyCommand,
    KeyCreate,
    KeyRevoke,
    KeyRotate,
    KeyState,
    Revoked,
    SecretContext,
    answer,
    decide,
    key_stream,
)
from coordinator.domain.messages import Command, Millis
from coordinator.wire.answers import Accepted, Answer

KEYRING_SECONDS = 5.0  # the longest wait of an answer about a key for this process's own keyring


class NewSecret(NamedTuple):
    """The salt and digest of a new secret, for the event; the secret itself is derived again on demand."""

    salt: str
    digest: str


class KeyCommands(Handler[NewSecret | None]):
    """Gives keys their secrets, and shows each secret once, to the sender of the command that made it."""

    noun = "key"
    extended: ClassVar[tuple[type[Command], ...]] = (KeyCreate, KeyRotate, KeyRevoke)

    def __init__(
        self,
        secrets: KeySecrets,
        reached: Callable[[int, float], Awaitable[bool]],
        ids: Ids,
    ) -> None:
        """`reached(position, timeout)`: wait until this process's keyring is at a position of the log."""
        self._secrets = secrets
        self._reached = reached
        self._ids = ids

    async def prepare_one(self, intent: Intent) -> Prepared[NewSecret | None]:
        command = cast("KeyCommand", intent.command)
        match command:
            case KeyCreate():
                key, name = command.idempotency_key, intent.principal.name
                return self._with_secret(intent, self._ids.uuid7() if key is None else key_stream(name, key))
            case KeyRotate():
                return self._with_secret(intent, command.key_id)
            case KeyRevoke():
                return Prepared(intent, self, command.key_id, None)
            case _:
                assert_never(command)

    def _with_secret(self, intent: Intent, key_id: UUID) -> Prepared[NewSecret | None]:
        salt = new_salt()
        digest = digest_of(salt, self._secrets.secret(key_id, salt).encode())
        return Prepared(intent, self, key_id, NewSecret(salt, digest))

    def decide(self, prepared: Prepared[NewSecret | None], state_of: StateOf, now: Millis) -> Decision:
        found = state_of(prepared.stream)
        # The id may be that of another noun's stream; to the sender that is an unknown key.
        state: KeyState = found if isinstance(found, Active | Revoked) else None
        command, principal = cast("KeyCommand", prepared.intent.command), prepared.intent.principal
        secret = prepared.details
        if secret is None:
            return decide(state, command, Context(now, principal))
        return decide(state, command, SecretContext(now, principal, prepared.stream, *secret))

    def answer(self, prepared: Prepared[NewSecret | None], state: KeyState) -> dict[str, Any]:
        """With the secret, if this command made it: to the sender of a repeat a secret is not shown again."""
        body = answer(state, cast("KeyCommand", prepared.intent.command))
        secret = prepared.details
        if secret is None or not isinstance(state, Active) or state.newest.salt != secret.salt:
            return body
        body["key"] = f"{state.created.name}:{self._secrets.secret(prepared.stream, secret.salt)}"
        if state.created.signed:
            body["hmac_secret"] = self._secrets.hmac_secret(prepared.stream, secret.salt)
        return body

    async def extend(self, prepared: Prepared[NewSecret | None], answer: Accepted) -> Answer:
        """The answer waits until the keyring of this process has the change."""
        await self._reached(answer.position, KEYRING_SECONDS)
        return answer
