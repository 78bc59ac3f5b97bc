"""Commands about the coordinator's signing key."""

from __future__ import annotations

from typing import Any, cast

from coordinator.application.commands.handler import Handler, Prepared, StateOf
from coordinator.application.ports import Intent
from coordinator.domain.decision import Context, Decision
from coordinator.domain.messages import Millis
from coordinator.domain.signing_key import (
    SIGNING_KEYS,
    SigningKeyCommand,
    SigningKeyState,
    answer,
    decide,
)


class SigningKeyCommands(Handler[None]):
    """Nothing but the rules."""

    noun = "signing_key"

    async def prepare_one(self, intent: Intent) -> Prepared[None]:
        return Prepared(intent, self, SIGNING_KEYS, None)

    def decide(self, prepared: Prepared[None], state_of: StateOf, now: Millis) -> Decision:
        state: SigningKeyState = state_of(prepared.stream)
        command = cast("SigningKeyCommand", prepared.intent.command)
        return decide(state, command, Context(now, prepared.intent.principal))

    def answer(self, prepared: Prepared[None], state: SigningKeyState) -> dict[str, Any]:
        return answer(state, cast("SigningKeyCommand", prepared.intent.command))
