"""What a dispatcher needs that has no coordinator around it."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.application.ports import Intent
from coordinator.crypto.keys import SigningKey
from coordinator.crypto.offer_tokens import OfferTokens
from coordinator.wire.answers import Accepted, Answer

TOKENS = OfferTokens(SigningKey(bytes(32)))


class SentCommands:
    """Keeps the dispatcher's commands; nothing comes of them."""

    def __init__(self) -> None:
        self.sent: list[Intent] = []

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        self.sent += intents
        return [Accepted(0, {}) for _ in intents]
