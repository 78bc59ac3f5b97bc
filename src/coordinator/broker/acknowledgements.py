"""Acknowledgements in groups: one frame for all messages of a group commit."""

from __future__ import annotations

import asyncio
from typing import cast
from weakref import WeakKeyDictionary

from aio_pika.abc import AbstractIncomingMessage
from aiormq import Channel


class _Channel:
    """One channel's delivery tags: 1, 2, 3 … in the order of delivery, over all its consumers."""

    def __init__(self) -> None:
        self.settled: set[int] = set()
        """Tags above `floor` that are settled."""
        self.floor = 0
        """Every tag up to this one is settled, so that one frame can acknowledge them all."""
        self.acknowledged: set[int] = set()
        """Tags to acknowledge in the next frame."""
        self.flushing: asyncio.Task[None] | None = None

    def settle(self, tag: int) -> None:
        self.settled.add(tag)
        while self.floor + 1 in self.settled:
            self.floor += 1
            self.settled.remove(self.floor)


class Acknowledgements:
    """Acknowledges messages of any channel."""

    def __init__(self) -> None:
        self._channels: WeakKeyDictionary[Channel, _Channel] = WeakKeyDictionary()

    async def ack(self, message: AbstractIncomingMessage) -> None:
        """Returns when the acknowledgement is on its way. Raises what aiormq raises for a closed channel."""
        channel, tag = _channel_and_tag(message)
        state = self._channels.setdefault(channel, _Channel())
        state.settle(tag)
        state.acknowledged.add(tag)
        if state.flushing is None:
            state.flushing = asyncio.ensure_future(self._flush(channel, state))
        await asyncio.shield(state.flushing)

    async def reject(self, message: AbstractIncomingMessage) -> None:
        """Requeue the message. Reject, not nack: RabbitMQ 4.3 counts only the former as a delivery."""
        channel, tag = _channel_and_tag(message)
        await channel.basic_reject(tag, requeue=True)
        self._channels.setdefault(channel, _Channel()).settle(tag)

    async def _flush(self, channel: Channel, state: _Channel) -> None:
        # The task begins in the loop's next round, after all acknowledgements of this one. One task at a
        # time: a group that overtakes a lower tag's own acknowledgement would close the channel.
        try:
            while state.acknowledged:
                tags, state.acknowledged = state.acknowledged, set()
                grouped = {tag for tag in tags if tag <= state.floor}
                if grouped:
                    await channel.basic_ack(max(grouped), multiple=True, wait=False)
                # A message that is handled for long must not delay later ones.
                for tag in sorted(tags - grouped):
                    await channel.basic_ack(tag, wait=False)
        finally:
            state.flushing = None


def _channel_and_tag(message: AbstractIncomingMessage) -> tuple[Channel, int]:
    assert message.delivery_tag is not None
    return cast(Channel, message.channel), message.delivery_tag
