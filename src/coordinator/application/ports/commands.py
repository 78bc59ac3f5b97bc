"""Commands and their senders, and the one door for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from coordinator.domain.messages import Command, Principal
from coordinator.wire.answers import Answer
from coordinator.wire.heartbeat import Heartbeat


class Intent(NamedTuple):
    """A command and its sender."""

    command: Command
    principal: Principal
    message_id: str | None = None
    """Makes a submit without an idempotency key repeatable, as the broker may deliver a message twice."""
    traceparent: str | None = None
    """The W3C trace context of its message or request."""
    queue: str | None = None
    """The queue that its message came from; None for any other way."""
    span: str | None = None
    """The span in which it is handled, as a trace context, if that is recorded; what follows is below it."""


class Gateway(Protocol):
    """The entry point for the commands of HTTP and AMQP. It answers only after the commit."""

    async def handle(self, intents: Sequence[Intent]) -> list[Answer]:
        """Decide these commands; the answers are in the same order. Each command fails alone; never raises.

        An accepted `miner.register` has created the miner's queues, and its answer names them.
        """

    async def heartbeat(self, principal: Principal, beats: Sequence[Heartbeat]) -> list[Answer]:
        """Note these heartbeats; each answer repeats the wanted state (see the protocol page)."""

    async def canonical(self, service: str) -> str:
        """The id of the registry entry with this id or alias; the text itself if no entry has it."""

    async def state(self, stream: UUID) -> Any:
        """The state of one aggregate, fresh from the log (None if there is no such stream)."""


class CoordinatorRuns(Exception):
    """A coordinator of this database runs."""
