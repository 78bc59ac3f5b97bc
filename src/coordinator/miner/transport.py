"""How a miner program speaks to its coordinator: one Protocol, an AMQP and an HTTP transport behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

Answer = dict[str, Any]
"""`{"status": "accepted", …, "position"}` or `{"status": "refused", "code", "detail"}`."""

NOT_LIVE = frozenset({"SESSION_NOT_LIVE", "MINER_NOT_FOUND"})
"""Refusals after which only a new session helps."""


class BadOffer(ValueError):
    """A message on the work queue that is no offer."""


@dataclass(frozen=True, slots=True)
class Offer:
    """This job, this attempt, is there for the taking. Losing or repeating an offer is harmless.

    `payload` is None where it is large: then `payload_blob` (`blob:<sha256>`) holds it as JSON.
    """

    job_id: str
    attempt: int
    service: str
    payload: dict[str, Any] | None
    payload_blob: str | None
    payload_salt: bytes
    payload_digest: str
    timeout_seconds: float
    client: str | None = None
    """Whose job it is, for the routing key of its progress."""

    @classmethod
    def parse(cls, value: Any) -> Self:
        """An offer from its JSON; fields that a newer coordinator adds are ignored. Raises BadOffer."""
        try:
            payload, blob, client = (value.get(name) for name in ("payload", "payload_blob", "client"))
            if not isinstance(payload, dict) and not isinstance(blob, str):
                raise BadOffer("an offer without a payload")
            return cls(
                str(value["job_id"]),
                int(value["attempt"]),
                str(value["service"]),
                payload if isinstance(payload, dict) else None,
                blob,
                bytes.fromhex(value["payload_salt"]),
                str(value["payload_digest"]),
                float(value["timeout_seconds"]),
                client if isinstance(client, str) else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadOffer(f"not an offer: {type(error).__name__}") from None

    @property
    def key(self) -> tuple[str, int]:
        """What makes two offers the same one."""
        return (self.job_id, self.attempt)


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

    async def register(self, command: Mapping[str, Any]) -> Answer:
        """Send `miner.register` until it is answered; once accepted, offers come."""

    async def call(self, kind: str, command: Mapping[str, Any]) -> Answer:
        """Send a command until it is answered, however long that takes."""

    async def heartbeat(self, beat: Mapping[str, Any], timeout_seconds: float) -> Answer | None:
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
