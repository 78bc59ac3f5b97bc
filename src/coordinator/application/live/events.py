"""Live events: one task per process reads the feed and passes each event to its subscribers.

A reader's buffer is bounded. A reader that is too slow loses its buffer and goes on from the log, at its own
pace, from its own position. So no event is lost or sent twice, and no other reader waits. While no reader is
behind, events cost no query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.live.lease_holders import LeaseHolders
from coordinator.application.live.progress import ProgressReport
from coordinator.application.live.progress_hub import ProgressHub
from coordinator.application.live.revocation import Revocations
from coordinator.application.ports import EventLog, Page, Recorded
from coordinator.domain.job import ends_job, is_job_event
from coordinator.domain.messages import Event, Principal
from coordinator.domain.miner import is_miner_event

MAX_PENDING = 256
"""The most events that wait for one reader."""
PAGE_EVENTS = 200
SCAN_POSITIONS = 20_000
"""Positions that one query scans for a client's events: some ten milliseconds of the database."""
CATCHING_UP = 2
"""The most readers that read from the log at the same time."""

Topic = UUID | tuple[Literal["client", "miner"], str] | Literal["everything"]
"""One job, all of a client's jobs, one miner, or all jobs."""
EVERYTHING: Literal["everything"] = "everything"


def topics_of(event: Event) -> tuple[Topic, ...]:
    """The topics of an event."""
    if is_job_event(event):
        return (event.job_id, ("client", event.client), EVERYTHING)
    if is_miner_event(event):
        return (("miner", event.miner_id),)
    return ()


class EventReader:
    """One reader. After each call of `on_news`, `take` returns new events; one task at a time may take."""

    def __init__(self, live: LiveEvents, on_news: Callable[[], None]) -> None:
        self._live = live
        self._on_news = on_news
        self._pending: list[Recorded] = []
        self._since: dict[Topic, int] = {}
        """By topic: the position after which its events count."""
        self.position = live.position
        """All events of the reader up to this position are taken."""
        self.behind = False
        """Whether new events must be read from the log."""

    @property
    def topics(self) -> Collection[Topic]:
        return self._since.keys()

    def follow(self, topic: Topic, after: int | None = None) -> None:
        """Follow a topic from now on, or from position `after` (exclusive).

        For a job, `after` is not before this reader's creation. All jobs, or all of a client's, must be the
        only topic of a new reader.
        """
        if topic in self._since:
            return
        now = self._live.position
        after = now if after is None else after
        self._since[topic] = after
        self._live.add(self, topic)
        if not isinstance(topic, UUID):
            self.position = after
        if after < now:
            # Some of these events were passed on before, so all are read from the log.
            self._pending.clear()
            self.behind = True
            self._on_news()

    def leave(self, topic: Topic) -> None:
        """Stop following this topic."""
        if self._since.pop(topic, None) is not None:
            self._live.remove(self, topic)

    def close(self) -> None:
        """Stop following all topics. May be called twice."""
        for topic in list(self._since):
            self.leave(topic)
        self._pending.clear()
        self.behind = False

    async def take(self) -> list[Recorded]:
        """The new events, in order; may be empty. Raises LogError."""
        if self.behind:
            return await self._catch_up()
        taken, self._pending = self._pending, []
        if taken:
            self.position = taken[-1].position
        return taken

    def push(self, recorded: Recorded) -> None:
        """For `LiveEvents`: add an event of one of this reader's topics."""
        if self.behind or recorded.position <= max(self.position, self._since.get(recorded.stream, 0)):
            return
        if len(self._pending) >= MAX_PENDING:
            # Too slow: read the waiting events from the log instead.
            self._pending.clear()
            self.behind = True
        else:
            self._pending.append(recorded)
        self._on_news()

    async def _catch_up(self) -> list[Recorded]:
        live = self._live
        while self.position < live.position:
            page = await live.read(self._since, self.position, live.position)
            self.position = page.reached
            if page.events:
                self._on_news()  # there may be more
                return list(page.events)
        # No event was passed on since the check, because no other task ran: from here on events are pushed.
        self.behind = False
        return []


@dataclass(frozen=True, slots=True)
class Live:
    """The live services of a process."""

    events: LiveEvents
    progress: ProgressHub
    lease_holders: LeaseHolders
    revocations: Revocations

    async def report(self, principal: Principal, report: ProgressReport) -> bool:
        """Publish a miner's report to this process; returns whether the miner should send its whole text.

        Raises Refusal, LogUnavailable.
        """
        client = await self.lease_holders.check(principal, report)
        self.progress.publish(client, report, relay=True)
        # Another process, or this one before a restart, got the beginning.
        return not report.whole and self.progress.lacks_beginning(report.job_id)


class LiveEvents:
    """Passes events to the readers of this process. Used on the event loop only."""

    def __init__(
        self, feed: EventFeed, event_log: EventLog, hub: ProgressHub, lease_holders: LeaseHolders
    ) -> None:
        self._feed = feed
        self._log = event_log
        self._hub = hub
        self._lease_holders = lease_holders
        self._readers: dict[Topic, set[EventReader]] = {}
        self._end_callbacks: list[Callable[[UUID], None]] = []
        self._miner_callbacks: list[Callable[[str], None]] = []
        self._end_following: Callable[[], None] | None = None
        self._turns = asyncio.Semaphore(CATCHING_UP)
        self.position = 0
        """All events up to this position were passed on."""

    async def start(self) -> None:
        """Begin at the head of the feed."""
        if self._end_following is None:
            self.position = self._feed.head
            self._end_following = self._feed.on_events(self._pass_on_all)

    async def stop(self) -> None:
        if self._end_following is not None:
            self._end_following()
            self._end_following = None

    def on_end(self, callback: Callable[[UUID], None]) -> None:
        """Call back with each job that is final from now on."""
        self._end_callbacks.append(callback)

    def on_miner(self, callback: Callable[[str], None]) -> None:
        """Call back with the id of each miner that has an event from now on."""
        self._miner_callbacks.append(callback)

    @property
    def readers(self) -> int:
        """The number of pairs of a reader and a topic."""
        return sum(map(len, self._readers.values()))

    def reader(self, on_news: Callable[[], None] = lambda: None) -> EventReader:
        """A reader without topics; the caller must close it."""
        return EventReader(self, on_news)

    def add(self, reader: EventReader, topic: Topic) -> None:
        self._readers.setdefault(topic, set()).add(reader)

    def remove(self, reader: EventReader, topic: Topic) -> None:
        readers = self._readers.get(topic, set())
        readers.discard(reader)
        if not readers:
            self._readers.pop(topic, None)

    async def exists(self, position: int) -> bool:
        """Whether the log has reached this position. Raises LogError."""
        return position <= self.position or position <= await asyncio.to_thread(self._log.head)

    async def histories(self, job_ids: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        """All events of these jobs; unknown jobs are absent. Raises LogError."""
        async with self._turns:
            return await asyncio.to_thread(self._log.load, job_ids)

    async def read(self, since: dict[Topic, int], after: int, until: int) -> Page:
        """A page of past events of these topics. Raises LogError."""
        async with self._turns:
            return await asyncio.to_thread(_read, self._log, dict(since), after, until)

    def _pass_on_all(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            self._pass_on(recorded)

    def _pass_on(self, recorded: Recorded) -> None:
        event = recorded.event
        self.position = recorded.position
        if is_job_event(event):
            self._lease_holders.forget(recorded.stream)
        elif is_miner_event(event):
            for notify in self._miner_callbacks:
                notify(event.miner_id)
        if self._readers:
            reached: set[EventReader] = set()
            for topic in topics_of(event):
                for reader in self._readers.get(topic, ()):
                    if reader not in reached:
                        reached.add(reader)
                        reader.push(recorded)
        if ends_job(event):
            for callback in self._end_callbacks:
                callback(event.job_id)
            self._hub.end(event.job_id)  # after the readers, which still take the last progress first


def _read(event_log: EventLog, since: dict[Topic, int], after: int, until: int) -> Page:
    """In a thread. A reader follows jobs (and miners, whose past does not matter), or a client, or all."""
    if EVERYTHING in since:
        return _of_all(event_log, after, until)
    clients = [topic[1] for topic in since if isinstance(topic, tuple) and topic[0] == "client"]
    if clients:
        stop = min(until, after + SCAN_POSITIONS)
        return event_log.read_of(clients[0], after, stop, PAGE_EVENTS)
    jobs = [topic for topic in since if isinstance(topic, UUID)]
    histories = event_log.load(jobs).values() if jobs else ()
    return _first_page(_wanted(histories, since, after, until), until)


def _of_all(event_log: EventLog, after: int, until: int) -> Page:
    events = event_log.read(after, PAGE_EVENTS)
    within = [r for r in events if r.position <= until]
    whole = len(within) < len(events) or len(events) < PAGE_EVENTS
    reached = until if whole else within[-1].position
    return Page([r for r in within if is_job_event(r.event)], reached)


def _wanted(
    histories: Iterable[Sequence[Recorded]], since: dict[Topic, int], after: int, until: int
) -> list[Recorded]:
    found = [r for history in histories for r in history if max(after, since[r.stream]) < r.position <= until]
    return sorted(found, key=lambda recorded: recorded.position)


def _first_page(events: list[Recorded], until: int) -> Page:
    if len(events) <= PAGE_EVENTS:
        return Page(events, until)
    page = events[:PAGE_EVENTS]
    return Page(page, page[-1].position)
