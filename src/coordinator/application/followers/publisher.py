"""The publisher: sends every event to the events exchange, at least once, in the log's order."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.application.followers.follower import FollowerBase
from coordinator.application.ports import EventSink, Recorded


class Publisher(FollowerBase):
    """Publishes before its position moves; a crash in between repeats events with the same ids."""

    name = "publisher"
    linger_seconds = 0.25

    def __init__(self, sink: EventSink, *, heard: bool = True) -> None:
        """`heard`: whether anybody can hear what is published; if not, no commit needs to wake it."""
        self._sink = sink
        if not heard:
            self.acts_on = frozenset()

    async def act(self, events: Sequence[Recorded]) -> None:
        await self._sink.publish(events)
