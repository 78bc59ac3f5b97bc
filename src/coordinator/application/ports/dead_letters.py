"""The messages that could not be handled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from coordinator.domain.messages import Millis
from coordinator.wire.answers import Answer


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be handled. Everything in it comes from strangers."""

    id: str
    """Of its content: the same message, dead twice, has one id."""
    type: str
    routing_key: str
    code: str
    reason: str
    principal: str
    """As the message claims."""
    role: str
    """Of the sender's key; empty if none was proven."""
    proven: bool
    """Whether this coordinator had authenticated the sender before the message failed."""
    at: Millis | None
    message_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Replayed:
    """A dead letter that was sent again in its sender's name; it stays unless all of it was accepted."""

    letter: DeadLetter
    answers: Sequence[Answer]


class DeadLetters(Protocol):
    """The messages that could not be handled, where an operator looks at them. One call at a time.

    All raise ConnectionError while the broker is out of reach.
    """

    async def count(self) -> int:
        """The number of all; it looks at none."""

    async def oldest(self, limit: int) -> tuple[Sequence[DeadLetter], int]:
        """The oldest ones, and the number of all; they stay."""

    async def replay(self, ids: Collection[str] | None, limit: int, *, unproven: bool) -> Sequence[Replayed]:
        """Send these (None: the oldest ones) again as their senders' commands, and remove the accepted ones.

        Those without a proven sender are refused unless `unproven`: an admin vouches for the names.
        """

    async def drop(self, ids: Collection[str] | None, limit: int) -> Sequence[DeadLetter]:
        """Remove these (None: the oldest ones) for good."""
