"""Handlers: one for each noun, with everything that its commands need besides the rules.

The gateway and the bus call a command's handler up to four times:
1. `prepare`, before the command waits for its batch: finds the streams of the decision, computes digests,
   checks signatures. A refusal here costs no batch anything. The checks come in the order of their cost:
   service, schema, state of the job, and only then canonical bytes, signatures and blobs.
2. `decide`, in the batch: builds the context of the decision from the states after the commands before it.
3. `answer`, in the batch: the body of the answer, from the state after the decision; or a refusal, if the
   decision's events record that the command was at fault.
4. `extend`, after the commit: completes the few answers that have to wait for something.

`refused` is called instead, once a prepared command was refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from uuid import UUID

import structlog

from coordinator.application.ports import Intent, StoredPayload
from coordinator.domain.decision import Decision
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Command, Millis
from coordinator.wire.answers import Accepted, Answer, Refused

INTERNAL = Refused(Code.INTERNAL, "internal error: this is our fault; send it again later")
D = TypeVar("D")
log = structlog.get_logger("commands")

StateOf = Callable[[UUID], Any]
"""The state of a stream that `prepare` declared; None if the stream is empty."""


class Prepared(NamedTuple, Generic[D]):
    """A command that is ready for its decision."""

    intent: Intent
    handler: Handler[D]
    stream: UUID
    """The command's own stream; its state gives the answer."""
    details: D
    """Private to the handler: facts that it computed from the command."""
    reads: tuple[UUID, ...] = ()
    """Other streams that the decision reads."""
    writes: tuple[UUID, ...] = ()
    """Other streams that the decision may append to."""
    payload: StoredPayload | None = None
    """Stored in the transaction of the command's events."""
    assume_new: bool = False
    """Whether the stream is nearly always empty: it is not read then, and a conflict reveals a repeat."""


def log_unavailable() -> Refusal:
    """The refusal of a command whose handler could not read the log."""
    return Refusal(Code.UNAVAILABLE, "the log is out of reach; send it again later")


class Handler(ABC, Generic[D]):
    """The commands of one noun. Used on the event loop only."""

    noun: ClassVar[str]
    """The first word of the commands' topics."""
    routine: ClassVar[tuple[type[Command], ...]] = ()
    """Commands of the usual course: accepted ones are logged at level debug only."""
    extended: ClassVar[tuple[type[Command], ...]] = ()
    """Commands whose accepted answers `extend` completes."""

    async def prepare(self, intents: Sequence[Intent]) -> list[Prepared[D] | Refused]:
        """Each command, ready for its decision or refused; in the same order."""
        prepared: list[Prepared[D] | Refused] = []
        for intent in intents:
            try:
                prepared.append(await self.prepare_one(intent))
            except Refusal as refusal:
                prepared.append(Refused(refusal.code, refusal.detail, refusal.retry_after))
        return prepared

    @abstractmethod
    async def prepare_one(self, intent: Intent) -> Prepared[D]:
        """One command, ready for its decision. Raises Refusal."""

    @abstractmethod
    def decide(self, prepared: Prepared[D], state_of: StateOf, now: Millis) -> Decision:
        """The decision, on these states. Raises Refusal."""

    @abstractmethod
    def answer(self, prepared: Prepared[D], state: Any) -> dict[str, Any] | Refused:
        """The body of an accepted (or repeated) command's answer, from its stream's state after it."""

    def refused(self, prepared: Prepared[D]) -> None:
        """Called once the command was refused, whatever the reason; gives back what `decide` reserved."""

    async def extend(self, prepared: Prepared[D], answer: Accepted) -> Answer:
        """The completed answer, or a refusal if it can't be completed now."""
        return answer

    async def extend_together(self, answered: Sequence[tuple[Prepared[D], Accepted]]) -> list[Answer]:
        """The completed answers to commands that arrived together, in the same order.

        The effects of the commands are in the log, so an error fails its own element alone.
        """
        return [await self._extended(prepared, answer) for prepared, answer in answered]

    async def _extended(self, prepared: Prepared[D], answer: Accepted) -> Answer:
        try:
            return await self.extend(prepared, answer)
        except Exception:
            log.exception("an answer could not be completed", command=prepared.intent.command.topic)
            return INTERNAL
