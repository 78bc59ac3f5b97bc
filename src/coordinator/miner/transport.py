"""The miner program's connection to its coordinator: a Protocol for the AMQP and the HTTP transport."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from coordinator.wire.answers import AnswerJson
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.offers import Offer

NOT_LIVE = frozenset({"SESSION_NOT_LIVE", "MINER_NOT_FOUND"})
"""Refusals after which only a new session helps."""


class HeldOffer(Protocol):
    """An offer in hand; settle it by `done` or `back`. To settle it twice does nothing."""

    @property
    def offer(self) -> Offer: ...

    @property
    def claimed(self) -> bool:
        """Whether `take` has claimed it already (HTTP)."""

    def done(self) -> None:
        """Take it off the queue: its claim is answered, or it is useless."""

    def back(self) -> None:
        """Put it back for another miner."""


class MinerInbox(Protocol):
    """The transport's calls to the program. Both return at once."""

    def on_hint(self, hint: Mapping[str, Any]) -> None:
        """`{"hint": "cancel", "job_id", "attempt"}`, `{"hint": "progress", "job_id", "attempt"}`,
        `{"hint": "drain", "session_id"}` or `{"hint": "register"}`. A hint proves nothing.
        """

    def on_report_refused(self, job_id: str, attempt: int) -> None:
        """The coordinator itself refused an attempt's progress: the attempt is not this miner's any more."""

    def on_session_lost(self, session_id: str) -> None:
        """The coordinator does not know this session, or no longer."""


class Transport(Protocol):
    """One miner's connection. It survives restarts of broker and coordinator by itself."""

    async def start(self, inbox: MinerInbox, slots: int) -> None:
        """Begin to connect, without waiting. `slots` is the number of concurrent `take` calls."""

    async def register(self, command: Mapping[str, Any]) -> AnswerJson:
        """Send `miner.register` until it is answered; after acceptance offers come."""

    async def call(self, kind: str, command: Mapping[str, Any]) -> AnswerJson:
        """Send a command until it is answered, however long that takes."""

    async def heartbeat(self, beat: Heartbeat, timeout_seconds: float) -> AnswerJson | None:
        """Send a heartbeat once; None if no answer came in time."""

    async def report(self, offer: Offer, report: Mapping[str, Any]) -> bool:
        """Send a `job.progress` once, without an answer; False if it certainly did not arrive.

        Never raises, and never takes long.
        """

    async def take(self) -> HeldOffer | None:
        """Wait for an offer: the caller has a free slot. None once `stop_taking` was called."""

    def suspend(self) -> None:
        """Hand back unclaimed offers and take none until the next `register`."""

    def stop_taking(self) -> None:
        """Hand back unclaimed offers and take no more, for good."""

    async def close(self) -> None:
        """Disconnect; calls without an answer fail. May be called twice, and without start."""
