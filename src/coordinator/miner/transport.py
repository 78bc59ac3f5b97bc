"""How a miner program speaks to its coordinator: one Protocol, an AMQP and an HTTP transport behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from coordinator.wire.answers import AnswerJson
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.offers import Offer

NOT_LIVE = frozenset({"SESSION_NOT_LIVE", "MINER_NOT_FOUND"})
"""Refusals after which only a new session helps."""


class HeldOffer(Protocol):
    """An offer in hand, to be settled one way or the other; settling twice does nothing."""

    @property
    def offer(self) -> Offer: ...

    @property
    def claimed(self) -> bool:
        """Whether taking it has claimed it already (HTTP)."""

    def done(self) -> None:
        """Its claim is answered, or it is of no use: take it off the queue."""

    def back(self) -> None:
        """Put it back for another miner."""


class MinerInbox(Protocol):
    """What a transport tells the program without being asked. Both return at once."""

    def on_hint(self, hint: Mapping[str, Any]) -> None:
        """`{"hint": "cancel", "job_id", "attempt"}`, `{"hint": "progress", "job_id", "attempt"}`,
        `{"hint": "drain", "session_id"}` or `{"hint": "register"}`.
        """

    def on_session_lost(self, session_id: str) -> None:
        """The coordinator does not know this session (any more)."""


class Transport(Protocol):
    """One miner's connection. Everything here survives restarts of broker and coordinator by itself."""

    async def start(self, inbox: MinerInbox, slots: int) -> None:
        """Begin to connect; does not wait for it. `slots` is the number of `take` calls at a time."""

    async def register(self, command: Mapping[str, Any]) -> AnswerJson:
        """Send `miner.register` until it is answered; once accepted, offers come."""

    async def call(self, kind: str, command: Mapping[str, Any]) -> AnswerJson:
        """Send a command until it is answered, however long that takes."""

    async def heartbeat(self, beat: Heartbeat, timeout_seconds: float) -> AnswerJson | None:
        """Send a heartbeat once; None where no answer came in time."""

    async def report(self, offer: Offer, report: Mapping[str, Any]) -> bool:
        """Send a `job.progress` once, without an answer; False where it certainly did not arrive.

        Never raises, and never takes long.
        """

    async def take(self) -> HeldOffer | None:
        """Wait for an offer: the caller has a free slot. None once `stop_taking` was called."""

    def suspend(self) -> None:
        """Hand back what is unclaimed and take nothing until the next `register`."""

    def stop_taking(self) -> None:
        """Hand back what is unclaimed and take nothing more, for good."""

    async def close(self) -> None:
        """Disconnect; calls without an answer fail. May be called twice, and without start."""
