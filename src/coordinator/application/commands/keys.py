"""Commands about API keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, NamedTuple, cast
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
        state_of: Callable[[UUID], Awaitable[Any]],
        reached: Callable[[int, float], Awaitable[bool]],
        ids: Ids,
    ) -> None:
        """`state_of`: a stream's state, fresh from the log. `reached(position, timeout)`: wait until this
        process's keyring has reached a position of the log."""
        self._secrets = secrets
        self._state_of = state_of
        self._reached = reached
        self._ids = ids

    async def prepare_one(self, intent: Intent) -> Prepared[NewSecret | None]:
        command = cast("KeyCommand", intent.command)
        if isinstance(command, KeyRevoke):
            return Prepared(intent, self, command.key_id, None)
        if isinstance(command, KeyRotate):
            stream = command.key_id
        elif command.idempotency_key is not None:
            stream = key_stream(intent.principal.name, command.idempotency_key)
        else:
            stream = self._ids.uuid7()
        salt = new_salt()
        digest = digest_of(salt, self._secrets.secret(stream, salt).encode())
        return Prepared(intent, self, stream, NewSecret(salt, digest))

    def decide(self, prepared: Prepared[NewSecret | None], state_of: StateOf, now: Millis) -> Decision:
        found = state_of(prepared.stream)
        # The id may be that of another noun's stream; to the sender that is an unknown key.
        state: KeyState = found if isinstance(found, Active | Revoked) else None
        command, principal = cast("KeyCommand", prepared.intent.command), prepared.intent.principal
        secret = prepared.details
        if secret is None:
            return decide(state, command, Context(now, principal))
        return decide(state, command, SecretContext(now, principal, prepared.stream, *secret))

    def answer(self, state: KeyState, command: KeyCommand) -> dict[str, Any]:
        return answer(state, command)

    async def extend(self, prepared: Prepared[NewSecret | None], answer: Accepted) -> Answer:
        """Waits for the change in this process's keyring, then adds the secret if this command made it."""
        await self._reached(answer.position, KEYRING_SECONDS)
        if prepared.details is None:
            return answer
        salt, state = prepared.details.salt, await self._state_of(prepared.stream)
        if not isinstance(state, Active) or all(s.salt != salt for s in state.secrets):
            return answer  # a repeat: a secret is shown once
        secret = self._secrets.secret(prepared.stream, salt)
        body = {**answer.body, "key": f"{state.created.name}:{secret}"}
        if state.created.signed:
            body["hmac_secret"] = self._secrets.hmac_secret(prepared.stream, salt)
        return Accepted(answer.position, body)
