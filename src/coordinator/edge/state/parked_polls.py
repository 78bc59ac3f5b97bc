"""The polls that wait for work. Each costs the request that it is, and nothing more while it waits.

All of them share the timer of their deadlines, and the task that counts each as a heartbeat of its miner. An
offer, the deadline, the client's disconnect, an event of its miner or the server's stop wakes one poll; no
task watches for these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

import structlog

from coordinator.application.dispatch.claims import end_wait, take_offer
from coordinator.application.ports import LogUnavailable, TakenOffer, Waiter, WorkQueues
from coordinator.edge.state.deadlines import Deadlines

log = structlog.get_logger("edge")


class ParkedSession(NamedTuple):
    """The session of a miner whose poll waits."""

    miner_id: str
    session_id: str


Seen = Callable[[Collection[ParkedSession]], Awaitable[None]]


class ParkedPolls:
    """Used on the event loop."""

    def __init__(self, seen: Seen, seconds: float) -> None:
        """`seen` notes a sign of life of each session, every `seconds`."""
        self._seen = seen
        self._seconds = seconds
        self._deadlines = Deadlines(end_wait)
        self._miners: dict[str, dict[Waiter, ParkedSession]] = {}
        """The polls that wait, by miner."""
        self._polled: set[ParkedSession] = set()
        """The sessions of polls that came since signs of life were noted: not all of them had to wait."""
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def __len__(self) -> int:
        """The number of polls that wait."""
        return sum(map(len, self._miners.values()))

    @property
    def stopped(self) -> bool:
        """Whether no poll waits any longer."""
        return self._stopped

    def stop(self) -> None:
        """End all polls without an offer, now and from now on: the server stops."""
        self._stopped = True
        for miner_id in list(self._miners):
            self.end_polls_of(miner_id)

    def end_polls_of(self, miner_id: str) -> None:
        """End the polls of this miner without an offer: its session has changed."""
        for waiter in self._miners.get(miner_id, ()):
            end_wait(waiter)

    def note(self, session: ParkedSession) -> None:
        """A poll of this session came, which is a sign of life."""
        self._polled.add(session)
        if self._task is None:
            self._task = asyncio.create_task(self._keep_noting(), name="parked-polls")

    async def take(
        self,
        queues: WorkQueues,
        profile: str,
        session: ParkedSession,
        seconds: float,
        watch: Callable[[Callable[[], None]], None],
    ) -> TakenOffer | None:
        """One offer; None if none came in time, or the poll was ended.

        `watch` is told how to end the poll before it begins to wait: for the disconnect of its client.
        """
        if self._stopped:
            return None
        self.note(session)
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        polls = self._miners.setdefault(session.miner_id, {})
        polls[waiter] = session
        seconds = max(seconds, queues.shortest_wait)
        tick = None
        if seconds > 0:
            tick = self._deadlines.add(waiter, seconds)
        else:
            loop.call_soon(end_wait, waiter)  # an offer that is at hand comes before
        watch(lambda: end_wait(waiter))
        try:
            return await take_offer(queues, profile, waiter)
        finally:
            if tick is not None:
                self._deadlines.remove(waiter, tick)
            del polls[waiter]
            if not polls:
                self._miners.pop(session.miner_id, None)

    async def _keep_noting(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._seconds)
                polled, self._polled = self._polled, set()
                if not polled and not self._miners:
                    return
                try:
                    await self._seen(polled.union(*(polls.values() for polls in self._miners.values())))
                except LogUnavailable:
                    pass  # silence does not count meanwhile
                except Exception:
                    log.exception("signs of life could not be noted")
        finally:
            self._task = None
