"""The polls that wait at this process, of all profiles, and the two ways on which offers reach them.

An offer that this process makes is handed to a poll that waits here, in memory, without a message. Messages
on the work queues come from other processes, or from moments without a poll; consumers take them. As soon as
others consume a profile's queue as well, all of its offers go through the queue: the broker shares them out,
so nobody starves beside our polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, cast

from aio_pika.abc import AbstractRobustChannel
from aiormq import Channel
from pamqp.commands import Basic

from coordinator.application.background import Background
from coordinator.application.dispatch.claims import end_wait
from coordinator.application.ports import TakenOffer, Waiter
from coordinator.broker.connection import Broker, BrokerUnreachable
from coordinator.broker.polls.consumers import QueueConsumers
from coordinator.broker.polls.handover import Handover, PolledOffer, returns
from coordinator.wire.offers import Offer
from coordinator.wire.signed_messages import CoordinatorTrust

SHORTEST_WAIT_SECONDS = 0.15
"""Time for a consumer's start and the broker's answer: a shorter wait could miss an offer on the queue."""
ASK_SECONDS: Final = 2.0
"""Between questions whether others consume a queue whose offers are handed over in memory."""
MAX_IDLE_PROFILES: Final = 1000

Ensure = Callable[[str], Awaitable[int]]
PutBack = Callable[[str, Sequence[Offer]], Awaitable[bool]]


class _OwnOffers:
    """`Source` of the offers that this process's dispatcher hands over; no message stands behind them."""

    def __init__(self, polls: _ProfilePolls) -> None:
        self._polls = polls

    def note_taken(self) -> None:
        pass

    async def done(self) -> None:
        pass

    async def put_back(self, offers: Sequence[Offer]) -> None:
        await self._polls.publish(offers)


class _ProfilePolls:
    """One profile's."""

    def __init__(self, shared: WaitingPolls, profile: str) -> None:
        self.place = Handover(shared.spawn_return)
        self.consumers = QueueConsumers(profile, shared, self.place, shared.spawn)
        self._own = _OwnOffers(self)
        self._shared = shared
        self._profile = profile
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = -ASK_SECONDS
        self._others = 0
        """Consumers of the queue that are not ours."""

    @property
    def idle(self) -> bool:
        return self.place.idle and not len(self.consumers)

    def wait(self, waiter: Waiter) -> None:
        self.place.wait(waiter)
        self.consumers.balance()

    def leave(self, waiter: Waiter) -> None:
        self.place.leave(waiter)
        self.consumers.balance()

    def hand_over(self, bundles: Sequence[Sequence[Offer]]) -> Sequence[Sequence[Offer]]:
        if not self.place.waiting and not self.place.room:
            return bundles
        self._ask_for_others()
        if self._others:
            return bundles
        # A spare one would overtake the offers that are on the queue.
        left = self.place.hand_over(self._own, bundles, spare=not self.consumers.may_hold)
        self.consumers.balance()
        return left

    async def publish(self, offers: Sequence[Offer]) -> None:
        """Put own offers on the queue; what does not arrive is spare again."""
        if not await self._shared.put_back(self._profile, offers) and not self._shared.stopped:
            self.place.keep([PolledOffer(offer, self._own, self.place) for offer in offers])

    def forget_own(self) -> None:
        self.place.forget(lambda source: source is self._own)

    def _ask_for_others(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._asked_at >= ASK_SECONDS and (self._asking is None or self._asking.done()):
            self._asked_at = now
            self._asking = self._shared.spawn(self._count_others())

    async def _count_others(self) -> None:
        ours = len(self.consumers)
        try:
            consumers = await self._shared.ensure(self._profile)
        except BrokerUnreachable:
            return
        self._others = max(0, consumers - max(ours, len(self.consumers)))


class WaitingPolls:
    """All profiles' polls, over one channel."""

    def __init__(self, broker: Broker, trust: CoordinatorTrust, ensure: Ensure, put_back: PutBack) -> None:
        """`ensure` makes a profile's queue and counts its consumers. `put_back` publishes offers."""
        self.trust = trust
        self.stopped = False
        self._ensure = ensure
        self._put_back = put_back
        self._broker = broker
        self._profiles: dict[str, _ProfilePolls] = {}
        self._robust: AbstractRobustChannel | None = None
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()
        self._tasks = Background("waiting-polls")
        self._returning = Background("spare-offers")
        self._most_profiles = MAX_IDLE_PROFILES

    # --- polls ----------------------------------------------------------------------------------------------
    def wait(self, profile: str, waiter: Waiter) -> None:
        if self.stopped:
            end_wait(waiter)
            return
        polls = self._profiles.get(profile)
        if polls is None:
            self._forget_idle()
            polls = self._profiles[profile] = _ProfilePolls(self, profile)
        polls.wait(waiter)

    def leave(self, profile: str, waiter: Waiter) -> None:
        polls = self._profiles.get(profile)
        if polls is not None:
            polls.leave(waiter)

    def at_hand(self, profile: str, most: int) -> Sequence[TakenOffer]:
        polls = self._profiles.get(profile)
        return () if polls is None else polls.place.at_hand(most)

    # --- offers ---------------------------------------------------------------------------------------------
    def hand_over(self, profile: str, bundles: Sequence[Sequence[Offer]]) -> Sequence[Sequence[Offer]]:
        """Hand these offers to polls that wait here, and return those for the queue."""
        polls = self._profiles.get(profile)
        return bundles if polls is None or self.stopped else polls.hand_over(bundles)

    def note_published(self, profile: str, messages: int) -> None:
        """We put messages on the profile's queue."""
        polls = self._profiles.get(profile)
        if polls is not None:
            polls.consumers.note_published(messages)

    def forget_own(self) -> None:
        """Forget the spare offers that were not taken off a queue: they are made again."""
        for polls in self._profiles.values():
            polls.forget_own()

    # --- the broker -----------------------------------------------------------------------------------------
    async def ensure(self, profile: str) -> int:
        return await self._ensure(profile)

    async def put_back(self, profile: str, offers: Sequence[Offer]) -> bool:
        return await self._put_back(profile, offers)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run this until its end, or until `stop`."""
        return self._tasks.spawn(work)

    def spawn_return(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run this, which gives offers back; `stop` waits for its end."""
        return self._returning.spawn(work)

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
        """End all waits, and give back all offers that no poll took. May be called twice."""
        self.stopped = True
        spare = []
        for polls in self._profiles.values():
            polls.place.end_waits()
            spare += polls.place.take_spare()
        await self._tasks.stop()
        for work in returns(spare):
            self.spawn_return(work)
        await self._returning.join()
        robust, self._robust = self._robust, None
        if robust is not None and self._broker.connected:
            await robust.close()  # which gives back all unsettled messages

    def _forget_idle(self) -> None:
        if len(self._profiles) >= self._most_profiles:
            self._profiles = {name: polls for name, polls in self._profiles.items() if not polls.idle}
            self._most_profiles = max(MAX_IDLE_PROFILES, 2 * len(self._profiles))

    def _reopened(self, *_: object) -> None:
        for polls in list(self._profiles.values()):
            polls.consumers.reset()

    def _consumer_cancelled(self, frame: Basic.Cancel) -> None:
        for polls in self._profiles.values():
            if (tag := str(frame.consumer_tag)) in polls.consumers:
                polls.consumers.note_lost(tag)
