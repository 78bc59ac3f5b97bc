"""What commands of one noun need besides their rules: a handler for each noun, driven by gateway and bus.

A command goes through its handler three times:
1. `prepare`, before it waits for its turn: its stream and the others that its decision has to do with, its
   digests, the check of its signature. What is wrong here is refused before it costs a batch anything.
2. `decide`, in its turn: the context of the decision, from the states that the commands before it led to.
3. `extend`, after the commit, for the few whose answer holds more than the state does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from uuid import UUID

from coordinator.application.ports import Intent, StoredPayload
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Refusal
from coordinator.domain.messages import Command, Millis
from coordinator.wire.answers import Accepted, Answer, Refused

D = TypeVar("D")
StateOf = Callable[[UUID], Any]
"""The state of a stream that the command named when it was prepared; None where the stream is empty."""


class Prepared(NamedTuple, Generic[D]):
    """A command that is ready to be decided."""

    intent: Intent
    handler: Handler[D]
    stream: UUID
    """The command's own: its answer is made of the state of this one."""
    details: D
    """What the handler found out about the command itself; nobody else looks at it."""
    reads: tuple[UUID, ...] = ()
    """Other streams that the decision looks at."""
    writes: tuple[UUID, ...] = ()
    """Other streams that the decision may append to."""
    payload: StoredPayload | None = None
    """Stored in the transaction of the events that the command leads to."""
    assume_new: bool = False
    """Whether the stream is nearly always empty: it is not read then, and a conflict finds the repeat."""


class Handler(ABC, Generic[D]):
    """The commands of one noun. Used on the event loop only."""

    noun: ClassVar[str]
    """The first word of their topics."""
    routine: ClassVar[tuple[type[Command], ...]] = ()
    """Commands that are logged at level debug only, once they are accepted: the usual course of things."""
    extended: ClassVar[tuple[type[Command], ...]] = ()
    """Commands whose accepted answers `extend` completes."""

    async def prepare(self, intents: Sequence[Intent]) -> list[Prepared[D] | Refused]:
        """Each command ready to be decided, or refused; in the same order."""
        prepared: list[Prepared[D] | Refused] = []
        for intent in intents:
            try:
                prepared.append(await self.prepare_one(intent))
            except Refusal as refusal:
                prepared.append(Refused(refusal.code, refusal.detail))
        return prepared

    @abstractmethod
    async def prepare_one(self, intent: Intent) -> Prepared[D]:
        """One command ready to be decided. Raises Refusal."""

    @abstractmethod
    def decide(self, prepared: Prepared[D], state_of: StateOf, now: Millis) -> Decision:
        """The decision, on these states. Raises Refusal."""

    @abstractmethod
    def answer(self, state: Any, command: Any) -> dict[str, Any]:
        """The body of an accepted (or repeated) command's answer, from its stream's state after it."""

    async def extend(self, prepared: Prepared[D], answer: Accepted) -> Answer:
        """The answer with what only this process knows, or a refusal where that can't be had now."""
        return answer
