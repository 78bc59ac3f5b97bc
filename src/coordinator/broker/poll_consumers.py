"""Consumers that take single offers from work queues, for miners that poll over HTTP.

A consumer withholds its prefetch from all others, whether it needs it or not. So there is a consumer, for
one message, only while a poll waits. It is started when the poll begins to wait, and cancelled when its
message has arrived or no poll is left for it. Of many polls a few have consumers: the polls of one profile
are alike, so any of them may get the message, and thousands that wait cost the broker nothing. An offer
without a waiting poll goes back after a moment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, cast

import structlog
from aio_pika.abc import AbstractRobustChannel
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq import Channel
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pydantic import TypeAdapter, ValidationError

from coordinator.application.background import Background
from coordinator.application.dispatch.claims import end_wait
from coordinator.application.ports import TakenOffer, Waiter
from coordinator.broker.connection import Broker, BrokerError
from coordinator.broker.topology import WORK_EXPIRES_MS, TopologyMismatch
from coordinator.wire.offers import Offer
from coordinator.wire.signed_messages import CoordinatorTrust, Untrusted, offer_for
from coordinator.wire.topology import work_queue_name

SHORTEST_WAIT_SECONDS = 0.1
"""Time for the broker's answer: a shorter wait could miss an offer that is on the queue."""
SPARE_SECONDS = 0.25
"""How long the rest of a bundle waits for further polls before it goes back to the queue."""
RETRY_SECONDS = 0.5
QUEUE_KNOWN_SECONDS = WORK_EXPIRES_MS / 2000
"""Half the time after which an unused queue expires: until then it need not be declared again."""
MAX_IDLE_PROFILES = 1000
MAX_CONSUMERS = 16
"""Of one profile: the messages that may be on their way to its polls at a time."""

Ensure = Callable[[str], Awaitable[None]]
PutBack = Callable[[str, Sequence[Offer]], Awaitable[bool]]

_OFFERS = TypeAdapter(tuple[Offer, ...])

log = structlog.get_logger(__name__)


class _Delivery:
    """One message and the number of its open offers; acknowledged when none is open."""

    def __init__(self, channel: Channel, tag: int, offers: Sequence[Offer], polls: _ProfilePolls) -> None:
        self.polls = polls
        self.offers = len(offers)
        self.whole = True
        """None of its offers was handed out yet, so that the message itself can go back."""
        self._channel = channel
        self._tag = tag
        self._open = len(offers)
        self._lost = False

    async def settle(self, count: int, back: bool) -> None:
        """`back`: these offers are in no other message, so this one must go back when it is settled."""
        self._open -= count
        self._lost = self._lost or back
        if self._open:
            return
        try:
            if self._lost:
                await self._channel.basic_reject(self._tag, requeue=True)
            else:
                await self._channel.basic_ack(self._tag)
        except CONNECTION_EXCEPTIONS:
            pass  # the channel closed, and the broker delivers the message again: harmless


class _PolledOffer:
    """`TakenOffer` of a message on a work queue."""

    def __init__(self, offer: Offer, delivery: _Delivery) -> None:
        self._offer = offer
        self.delivery = delivery
        self._settled = False

    @property
    def offer(self) -> Offer:
        return self._offer

    async def done(self) -> None:
        if not self._settled:
            self._settled = True
            await self.delivery.settle(1, back=False)

    async def back(self) -> None:
        if not self._settled:
            self._settled = True
            await self.delivery.polls.put_back(self.delivery, [self._offer])


class _ProfilePolls:
    """One profile's waiting polls and the consumers that serve them."""

    def __init__(self, shared: PollConsumers, profile: str) -> None:
        self.profile = profile
        self.consumers: set[str] = set()
        """Tags of the consumers that wait for their message."""
        self._shared = shared
        self._used: set[str] = set()
        """Tags of consumers that had their message, to be cancelled."""
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        """Those that wait longest first."""
        self._spare: deque[_PolledOffer] = deque()
        self._ensured_at = -QUEUE_KNOWN_SECONDS
        self._balancing: asyncio.Task[None] | None = None
        self._numbers = 0

    @property
    def idle(self) -> bool:
        return not (self._waiters or self._spare or self.consumers or self._used)

    def wait(self, waiter: Waiter) -> None:
        if self._spare:
            waiter.set_result(self._hand_out(self._spare.popleft()))
            return
        self._waiters[waiter] = None
        self.balance()

    def leave(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter, None)
        self.balance()

    def at_hand(self, most: int) -> list[_PolledOffer]:
        return [self._hand_out(self._spare.popleft()) for _ in range(min(most, len(self._spare)))]

    def _hand_out(self, taken: _PolledOffer) -> _PolledOffer:
        taken.delivery.whole = False
        return taken

    def _give(self, offers: Sequence[_PolledOffer]) -> None:
        spare = False
        for taken in offers:
            waiter = self._next_waiter()
            if waiter is not None:
                waiter.set_result(self._hand_out(taken))
            else:
                self._spare.append(taken)
                spare = True
        if spare:
            asyncio.get_running_loop().call_later(SPARE_SECONDS, self._return_spare, list(offers))

    def _next_waiter(self) -> Waiter | None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                return waiter
        return None

    def _return_spare(self, offers: Sequence[_PolledOffer]) -> None:
        untaken = [taken for taken in offers if taken in self._spare]
        if untaken:
            for taken in untaken:
                self._spare.remove(taken)
            self._shared.spawn(self.put_back(untaken[0].delivery, [taken.offer for taken in untaken]))

    async def put_back(self, delivery: _Delivery, offers: Sequence[Offer]) -> None:
        """Put offers back: the message itself, or a new one if others of its offers were taken."""
        alone = delivery.whole or delivery.offers == len(offers)
        sent = not alone and await self._shared.put_back(self.profile, offers)
        await delivery.settle(len(offers), back=not sent)

    def arrived(self, channel: Channel, tag: str, message: DeliveredMessage) -> None:
        self.consumers.discard(tag)
        self._used.add(tag)
        assert message.delivery_tag is not None
        offers: Sequence[Offer] = ()
        try:
            body = message.body
            self._shared.trust.check(offer_for(self.profile), message.header.properties.headers, body)
            offers = _OFFERS.validate_json(body)
        except Untrusted as error:
            log.error("offers.forged", profile=self.profile, reason=str(error))
        except ValidationError:
            log.error("offers.unreadable", profile=self.profile)
        delivery = _Delivery(channel, message.delivery_tag, offers, self)
        if offers:
            self._give([_PolledOffer(offer, delivery) for offer in offers])
        else:
            self._shared.spawn(delivery.settle(0, back=False))
        self.balance()

    def lost_consumer(self, tag: str) -> None:
        """The broker cancelled a consumer: its queue was deleted."""
        self._ensured_at = -QUEUE_KNOWN_SECONDS
        self.consumers.discard(tag)
        self._used.discard(tag)
        self.balance()

    def reset(self) -> None:
        """The channel was reopened: all unsettled messages are back at the broker."""
        self._ensured_at = -QUEUE_KNOWN_SECONDS
        self.consumers.clear()
        self._used.clear()
        self._spare.clear()
        self.balance()

    def release(self) -> None:
        for waiter in self._waiters:
            end_wait(waiter)
        self._waiters.clear()

    def balance(self) -> None:
        """Start or cancel consumers until each waiting poll has one, in one task at a time."""
        if self._unbalanced and (self._balancing is None or self._balancing.done()):
            self._balancing = self._shared.spawn(self._balance())

    @property
    def _unbalanced(self) -> bool:
        return bool(self._used) or len(self.consumers) != self._wanted

    @property
    def _wanted(self) -> int:
        """The number of consumers for the polls that wait."""
        return min(len(self._waiters), MAX_CONSUMERS)

    async def _balance(self) -> None:
        while self._unbalanced and not self._shared.stopped:
            try:
                channel = await self._shared.channel()
                if self._used:
                    await channel.basic_cancel(self._used.pop())
                elif len(self.consumers) > self._wanted:
                    await channel.basic_cancel(self.consumers.pop())
                else:
                    await self._start_consumer(channel)
            except (BrokerError, TopologyMismatch, *CONNECTION_EXCEPTIONS) as error:
                log.warning("offers.cannot_take", profile=self.profile, reason=str(error))
                self._ensured_at = -QUEUE_KNOWN_SECONDS
                await asyncio.sleep(RETRY_SECONDS)

    async def _start_consumer(self, channel: Channel) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._ensured_at >= QUEUE_KNOWN_SECONDS:
            await self._shared.ensure(self.profile)
            self._ensured_at = now
        self._numbers += 1
        tag = f"{self.profile[:40]}.{self._numbers}"

        async def arrived(message: DeliveredMessage) -> None:
            self.arrived(channel, tag, message)

        self.consumers.add(tag)
        try:
            await channel.basic_consume(work_queue_name(self.profile), arrived, consumer_tag=tag)
        except BaseException:
            self.consumers.discard(tag)
            raise


class PollConsumers:
    """All profiles' polls, over one channel."""

    def __init__(self, broker: Broker, trust: CoordinatorTrust, ensure: Ensure, put_back: PutBack) -> None:
        self.trust = trust
        self.ensure = ensure
        self.put_back = put_back
        self.stopped = False
        self._broker = broker
        self._profiles: dict[str, _ProfilePolls] = {}
        self._robust: AbstractRobustChannel | None = None
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._tasks = Background("poll-consumers")

    def wait(self, profile: str, waiter: Waiter) -> None:
        if self.stopped:
            end_wait(waiter)
            return
        polls = self._profiles.get(profile)
        if polls is None:
            polls = self._profiles[profile] = _ProfilePolls(self, profile)
        if len(self._profiles) > MAX_IDLE_PROFILES:
            self._profiles = {
                name: other for name, other in self._profiles.items() if other is polls or not other.idle
            }
        polls.wait(waiter)

    def leave(self, profile: str, waiter: Waiter) -> None:
        polls = self._profiles.get(profile)
        if polls is not None:
            polls.leave(waiter)

    def at_hand(self, profile: str, most: int) -> Sequence[TakenOffer]:
        polls = self._profiles.get(profile)
        return () if polls is None else polls.at_hand(most)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.spawn(work)

    async def channel(self) -> Channel:
        """The open channel, with a prefetch of one message per consumer."""
        async with self._opening:
            if self._robust is None:
                robust = await self._broker.channel()
                await robust.set_qos(prefetch_count=1)
                robust.reopen_callbacks.add(self._reopened)
                self._robust = robust
            channel = cast(Channel, await self._robust.get_underlay_channel())
            if channel is not self._channel:
                self._channel = channel
                channel.on_consumer_cancel_callbacks.add(self._consumer_cancelled)
            return channel

    async def stop(self) -> None:
        self.stopped = True
        for polls in self._profiles.values():
            polls.release()
        await self._tasks.stop()
        robust, self._robust = self._robust, None
        if robust is not None and self._broker.connected:
            await robust.close()  # which gives back all unsettled messages

    def _reopened(self, *_: object) -> None:
        for polls in list(self._profiles.values()):
            polls.reset()

    def _consumer_cancelled(self, frame: Basic.Cancel) -> None:
        for polls in self._profiles.values():
            if frame.consumer_tag in polls.consumers:
                polls.lost_consumer(frame.consumer_tag)
