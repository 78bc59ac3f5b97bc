"""The consumers of one work queue that take its messages for polls, each for one message at a time.

A consumer withholds its prefetch from all others, whether it needs it or not. So there are consumers only
while the queue may hold something and polls wait, or once a poll has waited for a while. They are kept as
long as polls wait, and a moment longer: starting and cancelling one for each offer costs more than the offer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq import Channel
from aiormq.abc import DeliveredMessage
from pydantic import TypeAdapter, ValidationError

from coordinator.broker.connection import BrokerError
from coordinator.broker.polls.backlog import SIT_SECONDS, Backlog
from coordinator.broker.polls.handover import Handover, PolledOffer, Spawn
from coordinator.broker.topology import WORK_EXPIRES_MS, TopologyMismatch
from coordinator.wire.offers import Offer
from coordinator.wire.signed_messages import CoordinatorTrust, Untrusted, offer_for
from coordinator.wire.topology import work_queue_name

EXCESS_SECONDS: Final = 1.0
"""A consumer that no poll needed for so long is cancelled."""
RETRY_SECONDS: Final = 0.5
QUEUE_KNOWN_SECONDS: Final = WORK_EXPIRES_MS / 2000
"""Half the time after which an unused queue expires: until then it need not be declared again."""
MAX_CONSUMERS: Final = 16
"""That wait for a message: so many may be on their way to the polls of one profile at a time."""

_OFFERS = TypeAdapter(tuple[Offer, ...])

log = structlog.get_logger(__name__)


class Link(Protocol):
    """The way to the broker, which all profiles share."""

    trust: CoordinatorTrust
    stopped: bool

    async def channel(self) -> Channel:
        """The open channel, with a prefetch of one message per consumer."""

    async def ensure(self, profile: str) -> int:
        """Make the queue if it is missing; the number of its consumers."""

    async def put_back(self, profile: str, offers: Sequence[Offer]) -> bool:
        """Publish these offers; False: they did not arrive."""


class _Delivery:
    """`Source` of one message; acknowledged when none of its offers is open."""

    def __init__(
        self, consumers: QueueConsumers, channel: Channel, consumer: str, tag: int, offers: Sequence[Offer]
    ) -> None:
        self._consumers = consumers
        self._channel = channel
        self._consumer = consumer
        self._tag = tag
        self._offers = self._open = len(offers)
        self._whole = True
        """None of its offers was handed out yet, so that the message itself can go back."""
        self._lost = False

    def note_taken(self) -> None:
        self._whole = False

    async def done(self) -> None:
        await self._settle(1)

    async def put_back(self, offers: Sequence[Offer]) -> None:
        """The message itself goes back, or a new one if others of its offers were taken."""
        alone = self._whole or self._offers == len(offers)
        if alone or not await self._consumers.put_back(offers):
            self._lost = True
        await self._settle(len(offers))

    async def acknowledge(self) -> None:
        """The message has no offers."""
        await self._settle(0)

    async def _settle(self, count: int) -> None:
        self._open -= count
        if self._open:
            return
        try:
            if self._lost:
                await self._consumers.retire(self._channel, self._consumer)  # or it would get it once more
                await self._channel.basic_reject(self._tag, requeue=True)
            else:
                await self._channel.basic_ack(self._tag)
                self._consumers.note_free(self._consumer)
        except CONNECTION_EXCEPTIONS:
            pass  # the channel closed, and the broker delivers the message again: harmless


class QueueConsumers:
    """Those of one profile."""

    def __init__(self, profile: str, link: Link, place: Handover, spawn: Spawn) -> None:
        self.backlog = Backlog()
        self._profile = profile
        self._link = link
        self._place = place
        self._spawn = spawn
        self._starting: set[str] = set()
        self._free: dict[str, float] = {}
        """Those without a message, and since when."""
        self._busy: set[str] = set()
        """Those whose message is not settled; the broker gives them no other one."""
        self._unneeded: set[str] = set()
        """Those to be cancelled. A message may still be on its way to one."""
        self._ensured_at = -QUEUE_KNOWN_SECONDS
        self._balancing: asyncio.Task[None] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._excess_timer: asyncio.TimerHandle | None = None
        self._least_excess = 0
        """The fewest that no poll needed, since the timer was set."""
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._starting) + len(self._free) + len(self._busy) + len(self._unneeded)

    def __contains__(self, tag: str) -> bool:
        return tag in self._free or tag in self._busy or tag in self._starting or tag in self._unneeded

    @property
    def may_hold(self) -> bool:
        """Whether the queue may hold something."""
        return self.backlog.may_hold(self._free.values(), _now())

    def balance(self) -> None:
        """Start and cancel consumers as they are needed, in one task at a time; now, or when it is time."""
        self._watch_excess()
        if self._link.stopped or (self._balancing is not None and not self._balancing.done()):
            return
        if self._unneeded or (self._missing and self._is_time):
            self._balancing = self._spawn(self._balance())
        elif self._missing and self._look is None:
            since = self._place.waiting_since
            assert since is not None  # a consumer is missing for it
            self._look = asyncio.get_running_loop().call_at(since + SIT_SECONDS, self._look_again)

    def note_published(self, messages: int) -> None:
        """We put messages on the queue."""
        self.backlog.note_published(messages, _now())
        self.balance()

    def note_free(self, tag: str) -> None:
        """Its message was acknowledged."""
        if tag in self._busy:
            self._busy.discard(tag)
            self._free[tag] = _now()
            self._watch_excess()

    def note_lost(self, tag: str) -> None:
        """The broker cancelled a consumer: its queue was deleted."""
        self._ensured_at = -QUEUE_KNOWN_SECONDS
        self.backlog.note_reset()
        self._drop(tag)
        self.balance()

    def reset(self) -> None:
        """The channel was reopened: all unsettled messages are back at the broker."""
        self._ensured_at = -QUEUE_KNOWN_SECONDS
        self.backlog.note_reset()
        self._place.forget(lambda source: isinstance(source, _Delivery))
        for tags in (self._starting, self._busy, self._unneeded):
            tags.clear()
        self._free.clear()
        self.balance()

    async def put_back(self, offers: Sequence[Offer]) -> bool:
        return await self._link.put_back(self._profile, offers)

    async def retire(self, channel: Channel, tag: str) -> None:
        """Cancel a consumer whose message goes back."""
        self.backlog.note_published(1, _now())
        if tag in self:
            self._drop(tag)
            await channel.basic_cancel(tag)
            self.balance()

    def _drop(self, tag: str) -> None:
        self._free.pop(tag, None)
        for tags in (self._starting, self._busy, self._unneeded):
            tags.discard(tag)

    # --- messages -------------------------------------------------------------------------------------------
    def _arrived(self, channel: Channel, tag: str, message: DeliveredMessage) -> None:
        if tag in self._free or tag in self._starting:
            self._drop(tag)
            self._busy.add(tag)
        self.backlog.note_arrived()
        assert message.delivery_tag is not None
        offers = self._read(message)
        delivery = _Delivery(self, channel, tag, message.delivery_tag, offers)
        if offers:
            self._place.keep([PolledOffer(offer, delivery, self._place) for offer in offers])
        else:
            self._spawn(delivery.acknowledge())
        self.balance()

    def _read(self, message: DeliveredMessage) -> Sequence[Offer]:
        try:
            body = message.body
            self._link.trust.check(offer_for(self._profile), message.header.properties.headers, body)
            return _OFFERS.validate_json(body)
        except Untrusted as error:
            log.error("offers.forged", profile=self._profile, reason=str(error))
        except ValidationError:
            log.error("offers.unreadable", profile=self._profile)
        return ()

    # --- numbers --------------------------------------------------------------------------------------------
    @property
    def _missing(self) -> int:
        """The number of consumers that the waiting polls lack."""
        return max(0, min(self._place.waiting, MAX_CONSUMERS) - len(self._free) - len(self._starting))

    @property
    def _is_time(self) -> bool:
        """Whether missing consumers are started now."""
        since = self._place.waiting_since
        return since is not None and (since + SIT_SECONDS <= _now() or self.may_hold)

    def _look_again(self) -> None:
        self._look = None
        self.balance()

    def _watch_excess(self) -> None:
        excess = max(0, len(self._free) - self._place.waiting)
        if self._excess_timer is not None:
            self._least_excess = min(self._least_excess, excess)
        elif excess:
            self._least_excess = excess
            loop = asyncio.get_running_loop()
            self._excess_timer = loop.call_later(EXCESS_SECONDS, self._end_excess)

    def _end_excess(self) -> None:
        self._excess_timer = None
        for tag in list(self._free)[: self._least_excess]:
            del self._free[tag]
            self._unneeded.add(tag)
        self.balance()

    async def _balance(self) -> None:
        while not self._link.stopped:
            if not self._unneeded and not (self._missing and self._is_time):
                break
            try:
                channel = await self._link.channel()
                if self._unneeded:
                    tag = next(iter(self._unneeded))
                    await channel.basic_cancel(tag)
                    self._unneeded.discard(tag)
                else:
                    await self._start_consumer(channel)
            except (BrokerError, TopologyMismatch, *CONNECTION_EXCEPTIONS) as error:
                log.warning("offers.cannot_take", profile=self._profile, reason=str(error))
                self._ensured_at = -QUEUE_KNOWN_SECONDS
                await asyncio.sleep(RETRY_SECONDS)
        # Polls may have come since that need one later.
        self._balancing = None
        self.balance()

    async def _start_consumer(self, channel: Channel) -> None:
        if _now() - self._ensured_at >= QUEUE_KNOWN_SECONDS:
            await self._link.ensure(self._profile)
            self._ensured_at = _now()
        self._numbers += 1
        tag = f"{self._profile[:40]}.{self._numbers}"

        async def arrived(message: DeliveredMessage) -> None:
            self._arrived(channel, tag, message)

        self._starting.add(tag)
        try:
            await channel.basic_consume(work_queue_name(self._profile), arrived, consumer_tag=tag)
        except BaseException:
            self._drop(tag)
            raise
        if tag in self._starting:  # else its message has come already
            self._starting.discard(tag)
            self._free[tag] = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
