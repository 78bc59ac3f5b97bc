"""Offers on the profiles' work queues, and hints on the miners' control queues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from pamqp.commands import Basic
from pydantic_core import to_json

from coordinator.application.dispatch.claims import take_within
from coordinator.application.ports import TakenOffer, Waiter
from coordinator.broker.connection import Broker, BrokerUnreachable
from coordinator.broker.on_demand_queues import OnDemandQueues
from coordinator.broker.polls import waiting_polls
from coordinator.broker.polls.waiting_polls import WaitingPolls
from coordinator.broker.topology import TopologyMismatch, WorkQueueType, work_queue
from coordinator.telemetry import names
from coordinator.wire.limits import MAX_BODY_BYTES
from coordinator.wire.offers import Offer
from coordinator.wire.signed_messages import HINT_MS, OFFER_MS, MessageSigner, hint_for, offer_for
from coordinator.wire.topology import CONTROL_EXCHANGE, HINT_TYPE, OFFER_TYPE, WORK_EXCHANGE

log = structlog.get_logger(__name__)


class RabbitWorkQueues:
    """`WorkQueues` over RabbitMQ: one queue per profile, a bundle of offers is one message.

    Offers for which polls wait at this process reach them in memory.
    """

    system = names.RABBITMQ

    def __init__(
        self,
        broker: Broker,
        signer: MessageSigner,
        queue_type: WorkQueueType = "classic",
        offer_seconds: float | None = None,
    ) -> None:
        """`offer_seconds`: an offer's time to live on a queue, longer than the time until it is made again.
        It keeps copies of untaken offers from piling up."""
        self._broker = broker
        self._signer = signer
        self._queue_type: WorkQueueType = queue_type
        self._valid_ms = OFFER_MS if offer_seconds is None else int(offer_seconds * 1000)
        self._expiration = None if offer_seconds is None else str(int(offer_seconds * 1000))
        self._on_demand = OnDemandQueues(broker)
        self._polls = WaitingPolls(broker, signer.trust(), self._declare, self._put_back)
        self._on_reset: list[Callable[[], None]] = []
        broker.on_reconnect(self.reset)

    async def ensure(self, profile: str) -> None:
        """Raises BrokerUnreachable, whose text names a queue whose name is taken."""
        await self._declare(profile)

    async def publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        left = self._polls.hand_over(profile, bundles)
        return await self._publish(profile, left) if left else []

    async def _declare(self, profile: str) -> int:
        """The number of the queue's consumers."""
        try:
            return await self._on_demand.declare(work_queue(profile, self._queue_type))
        except TopologyMismatch as error:
            raise BrokerUnreachable(str(error)) from error

    async def _publish(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> list[Offer]:
        messages = [message for bundle in bundles for message in _messages(bundle)]
        outcomes = await self._send(profile, messages)
        returned = [m for m, outcome in zip(messages, outcomes, strict=True) if outcome == "unroutable"]
        failed = [m for m, outcome in zip(messages, outcomes, strict=True) if outcome == "unknown"]
        if returned:
            # The queue expired unused. A miner that comes back needs it and its offers.
            try:
                await self.ensure(profile)
            except BrokerUnreachable as error:
                log.warning("offers.no_queue", profile=profile, reason=str(error))
                failed += returned
            else:
                outcomes = await self._send(profile, returned)
                failed += [m for m, outcome in zip(returned, outcomes, strict=True) if outcome != "confirmed"]
        return [offer for offers, _ in failed for offer in offers]

    @property
    def shortest_wait(self) -> float:
        return waiting_polls.SHORTEST_WAIT_SECONDS

    def wait(self, profile: str, waiter: Waiter) -> None:
        self._polls.wait(profile, waiter)

    def leave(self, profile: str, waiter: Waiter) -> None:
        self._polls.leave(profile, waiter)

    async def take(self, profile: str, wait: float) -> TakenOffer | None:
        return await take_within(self, profile, wait)

    def at_hand(self, profile: str, most: int) -> Sequence[TakenOffer]:
        return self._polls.at_hand(profile, most)

    def on_reset(self, callback: Callable[[], None]) -> None:
        self._on_reset.append(callback)

    async def stop(self) -> None:
        """End waiting polls without an offer; untaken offers go back to the broker. May be called twice."""
        await self._polls.stop()

    async def _send(self, profile: str, messages: Sequence[tuple[Sequence[Offer], bytes]]) -> list[str]:
        self._polls.note_published(profile, len(messages))
        if len(messages) == 1:
            return [await self._send_one(profile, messages[0][1])]
        return await asyncio.gather(*(self._send_one(profile, body) for _, body in messages))

    async def _send_one(self, profile: str, body: bytes) -> str:
        # Not persistent: after a restart of the broker, offers are made again from the tables.
        properties = Basic.Properties(
            content_type="application/json",
            message_type=OFFER_TYPE,
            headers=self._signer.headers(offer_for(profile), body, self._valid_ms),
            delivery_mode=1,
            expiration=self._expiration,
        )
        return await self._broker.publish(WORK_EXCHANGE, profile, body, properties, mandatory=True)

    async def _put_back(self, profile: str, offers: Sequence[Offer]) -> bool:
        return not await self._publish(profile, [offers])

    def reset(self) -> None:
        """The content of the queues is unknown: offers are made again."""
        self._polls.forget_own()
        for callback in self._on_reset:
            callback()


def _messages(bundle: Sequence[Offer]) -> Iterable[tuple[Sequence[Offer], bytes]]:
    """A bundle as one message, or as several if one would exceed MAX_BODY_BYTES."""
    offers: list[Offer] = []
    parts: list[bytes] = []
    size = 1  # the brackets, and a comma for each but the last
    for offer in bundle:
        part = to_json(offer, exclude_none=True)
        if offers and size + len(part) + 1 > MAX_BODY_BYTES:
            yield offers, b"[" + b",".join(parts) + b"]"
            offers, parts, size = [], [], 1
        offers.append(offer)
        parts.append(part)
        size += len(part) + 1
    if offers:
        yield offers, b"[" + b",".join(parts) + b"]"


class RabbitHints:
    """`Hints` over RabbitMQ: a short-lived queue per miner, declared by the inbox when the miner registers.

    Failures of the broker raise nothing.
    """

    def __init__(self, broker: Broker, signer: MessageSigner) -> None:
        self._broker = broker
        self._signer = signer

    async def send(self, miner_id: str, hint: Mapping[str, Any]) -> None:
        body = to_json(hint)
        properties = Basic.Properties(
            content_type="application/json",
            message_type=HINT_TYPE,
            delivery_mode=1,
            headers=self._signer.headers(hint_for(miner_id), body, HINT_MS),
        )
        # Lost if the queue has expired: only a miner without a consumer lets it expire.
        await self._broker.publish_unconfirmed(CONTROL_EXCHANGE, miner_id, body, properties)
