"""The keys and the miners' registrations, followed from the log, and lookups of leases in it.

The answers come from memory, so they go on while the database is away. Only a question that memory would
deny is asked again after a fresh read of the log: the event that allows it may be a moment old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol
from uuid import UUID

import structlog

from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.keys.follower import KeyFollower
from coordinator.application.keys.keyring import Keyring
from coordinator.application.live.lease_holders import LeaseHolder, LeaseHolders
from coordinator.application.ports import Database, EventLog, LogError, Recorded
from coordinator.broker.auth.rights import Facts, mark_of
from coordinator.domain.decision import fold
from coordinator.domain.messages import Principal, Role
from coordinator.domain.miner import MinerRegistered
from coordinator.domain.registry import EVENTS

TOPICS: Final = tuple(
    sorted(topic for topic in EVENTS if topic.startswith("key.") or topic == MinerRegistered.topic)
)
PAGE: Final = 1000
RETRY_SECONDS: Final = 1.0
POLL_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.1
"""Between two reads of a busy log: most of its events are of other topics."""

log = structlog.get_logger("keys")


class TopicLog(EventLog, Protocol):
    """A log that can be read by topic."""

    def read_topics(self, topics: Collection[str], after: int, until: int, limit: int) -> list[Recorded]:
        """Up to `limit` events of these topics after `after` and not after `until`, in position order."""


class _Feed:
    """The events of our topics, in the form in which `KeyFollower` reads a feed."""

    def __init__(self, event_log: TopicLog) -> None:
        self._log = event_log
        self._scanned = 0
        self._task: asyncio.Task[None] | None = None
        self.head = 0

    async def start(self) -> None:
        self.head = await asyncio.to_thread(self._log.head)

    def on_events(self, callback: Callable[[Sequence[Recorded]], None]) -> Callable[[], None]:
        """Call back with the events of our topics after the head; the returned function ends that."""
        self._scanned = self.head
        task = self._task = asyncio.create_task(self._follow(callback), name="keys-of-the-log")

        def end() -> None:
            task.cancel()

        return end

    async def _follow(self, callback: Callable[[Sequence[Recorded]], None]) -> None:
        while True:
            try:
                if events := await asyncio.to_thread(self._read):
                    callback(events)
                elif await asyncio.to_thread(self._log.wait, self._scanned, POLL_SECONDS):
                    await asyncio.sleep(PAUSE_SECONDS)
            except LogError as error:
                log.warning("the log can't be read", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("following the keys failed")
                await asyncio.sleep(RETRY_SECONDS)

    def _read(self) -> list[Recorded]:
        after, head = self._scanned, self._log.head()
        events = self._log.read_topics(TOPICS, after, head, PAGE) if head > after else []
        self._scanned = events[-1].position if events else max(after, head)
        return events


class _OwnTopics:
    """The log for `KeyFollower`, without the events that it would skip."""

    def __init__(self, event_log: TopicLog) -> None:
        self._log = event_log

    def read(self, after: int, limit: int) -> list[Recorded]:
        return self._log.read_topics(TOPICS, after, self._log.head(), limit)

    def load(self, streams: Collection[UUID]) -> dict[UUID, list[Recorded]]:
        return self._log.load(streams)


class Principals(KeyFollower):
    """Who has valid keys, and which profiles their miners registered with."""

    name = "broker-auth"

    def __init__(self, event_log: TopicLog, database: Database, keyring: Keyring) -> None:
        self._topic_feed = _Feed(event_log)
        super().__init__(
            self._topic_feed, _OwnTopics(event_log), database, keyring, LocalWatermarks(database)
        )
        self._whole_log = event_log
        self._profiles: dict[str, tuple[int, str]] = {}
        """By miner: position and profile of its last registration."""
        self._position = 0
        self._refreshed_at = 0.0
        self._refreshing = asyncio.Lock()
        self._holders = LeaseHolders(self._job)
        self.facts = Facts(self._registered, self._holds)

    async def start(self) -> None:
        """Read the keys and registrations. Raises LogUnavailable."""
        await self._topic_feed.start()
        await super().start()

    def current(self, name: str, marks: Collection[str]) -> list[Principal]:
        """The principals of this name whose grants still stand, among those with these marks."""
        return [grant.principal for grant in self._keyring.valid(name) if mark_of(grant) in marks]

    async def refresh(self) -> None:
        """Take in what the log has by now. Callers at the same time share a read. Raises LogUnavailable."""
        asked_at = asyncio.get_running_loop().time()
        async with self._refreshing:
            if self._refreshed_at > asked_at:
                return  # a read that began after the question
            began = asyncio.get_running_loop().time()
            while events := await asyncio.to_thread(self._log.read, self._position, PAGE):
                self._take_in(events)
            self._refreshed_at = began

    # --- following -----------------------------------------------------------------------------------------
    def _read(self) -> tuple[int, dict[UUID, list[Recorded]]]:
        position, keys = super()._read()
        # After the position was read: what has happened since is applied to the miners once more.
        after = ""
        with self._database.transaction() as tables:
            while rows := tables.query("read_miners", after=after, state="", page_size=PAGE):
                for row in rows:
                    self._profiles[row["miner_id"]] = (row["position"], row["profile"])
                after = rows[-1]["miner_id"]
        self._position = position
        return position, keys

    def _follow(self, events: Sequence[Recorded]) -> None:
        self._take_in(events)

    def _take_in(self, events: Sequence[Recorded]) -> int:
        for recorded in events:
            if isinstance(recorded.event, MinerRegistered):
                miner_id = recorded.event.miner_id
                if recorded.position >= self._profiles.get(miner_id, (0, ""))[0]:
                    self._profiles[miner_id] = (recorded.position, recorded.event.profile)
        position = super()._take_in(events)
        self._position = max(self._position, position)
        return position

    # --- facts ---------------------------------------------------------------------------------------------
    async def _registered(self, name: str, profile: str) -> bool:
        principal = Principal(name, Role.MINER)
        return any(
            registered == profile and principal.owns_miner(miner_id)
            for miner_id, (_, registered) in self._profiles.items()
        )

    async def _holds(self, principal: Principal, client: str, job_id: UUID) -> bool:
        self._holders.forget(job_id)  # RabbitMQ remembers the answer; it may not be older than the question
        holder: LeaseHolder | None = await self._holders.holder(job_id)
        return holder is not None and holder.client == client and principal.owns_miner(holder.miner_id)

    async def _job(self, job_id: UUID) -> object:
        streams = await asyncio.to_thread(self._whole_log.load, [job_id])
        events = streams.get(job_id)
        return fold([recorded.event for recorded in events]) if events else None
