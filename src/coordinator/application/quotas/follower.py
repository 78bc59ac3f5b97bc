"""The follower that keeps the quotas of this process equal to the log.

Every process follows the log for itself. At the start it reads the limits from their read model, open jobs
and live miners from the dispatcher's tables, and stored bytes from their table; each as of its position,
and then the events after it. Uploads and expiry change the stored bytes without an event: they are read again
every few seconds. One process, which leads, adds the bytes of the events to that table; no other follower is
needed for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.followers.event_feed import EventFeed
from coordinator.application.followers.watermarks import LocalWatermarks
from coordinator.application.ports import (
    Database,
    EventLog,
    Leadership,
    LogError,
    LogUnavailable,
    PositionMoved,
    Recorded,
    Tables,
)
from coordinator.application.quotas.quotas import Quotas
from coordinator.application.quotas.usage import OpenRow, StoredRow
from coordinator.domain.job import JobSubmitted, is_job_event
from coordinator.domain.miner import MinerRegistered
from coordinator.domain.quota import OwnLimits, is_quota_event

PROJECTOR = "projector"
STORED = "usage"
"""The position of the stored bytes, and the right to write them."""
BATCH = 2000
LINGER_SECONDS = 0.1
"""How long events gather before they are counted: a check that would refuse counts them at once."""
REFRESH_SECONDS = 2.0
RETRY_SECONDS = 1.0

log = structlog.get_logger("quotas")


class _Tables(NamedTuple):
    limits_at: int
    limits: Sequence[tuple[str, str]]
    open_at: int
    open: Sequence[OpenRow]
    stored_at: int
    stored: Sequence[StoredRow]


class QuotaFollower:
    """Keeps `quotas` equal to the log. `start` and `stop` may each be called twice."""

    name = "quotas"

    def __init__(
        self,
        feed: EventFeed,
        event_log: EventLog,
        database: Database,
        quotas: Quotas,
        watermarks: LocalWatermarks,
        leadership: Leadership,
    ) -> None:
        self._leadership = leadership
        self._feed = feed
        self._log = event_log
        self._database = database
        self._quotas = quotas
        self._watermarks = watermarks
        self._position = 0
        self._limits_from = 0
        self._task = BackgroundTask("quotas")
        self._refresh = BackgroundTask("quotas-refresh")
        self._storing = BackgroundTask("quotas-store")
        quotas.catch_up = self.catch_up

    async def start(self) -> None:
        """Read the tables; needs a started feed. Returns once the counts are up to date.

        Raises LogUnavailable.
        """
        if self._task.running:
            return
        read = await asyncio.to_thread(self._read)
        for name, limits in read.limits:
            self._quotas.set_own(name, OwnLimits.model_validate_json(limits))
        usage = self._quotas.usage
        usage.begin(read.open_at, read.open)
        usage.begin_stored(read.stored_at, read.stored)
        self._limits_from = read.limits_at
        position, head = min(read.limits_at, read.open_at, read.stored_at), self._feed.head
        self._position = position
        while self._position < head:
            events = await asyncio.to_thread(self._log.read, self._position, BATCH)
            if not events:
                break
            self._take_in(events)
        self._position = max(self._position, head)
        self._watermarks.leads(self.name, here=True)
        self._watermarks.moved(self.name, self._position)
        self._task.start(self._follow)
        self._refresh.start(self._read_stored_again)
        self._storing.start(self._lead)

    async def stop(self) -> None:
        await self._storing.stop()
        if self._task.running and self._leadership.holds(STORED):
            with contextlib.suppress(LogUnavailable, PositionMoved):  # the next start counts again
                await self._store()
        await self._leadership.release(STORED)
        await self._refresh.stop()
        await self._task.stop()

    def catch_up(self) -> None:
        """Count all events that this process knows."""
        events = self._feed.recent(self._position)
        if events:
            self._take_in(events)

    async def reached(self, position: int, timeout: float) -> bool:
        """Wait until the limits of this process have reached `position` of the log."""
        self.catch_up()
        return await self._watermarks.reached(self.name, position, timeout)

    async def _follow(self) -> None:
        while True:
            try:
                after = self._position
                events = await self._feed.next(after, BATCH, REFRESH_SECONDS)
                if self._position != after:
                    events = [e for e in events if e.position > self._position]
                if events:
                    self._take_in(events)
                if len(events) < BATCH:
                    await asyncio.sleep(LINGER_SECONDS)
            except LogError as error:
                log.warning("the log can't be read", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("following the quotas failed")
                await asyncio.sleep(RETRY_SECONDS)

    async def _read_stored_again(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                position, rows = await asyncio.to_thread(self._read_stored)
                self.catch_up()
                if position >= self._quotas.usage.stored_from:  # else it was read before the last write
                    self._quotas.usage.begin_stored(position, rows)
                self._quotas.forget_old()
            except LogUnavailable as error:
                log.warning("the stored bytes can't be read", error=str(error))
            except Exception:
                log.exception("reading the stored bytes failed")

    async def _lead(self) -> None:
        while True:
            try:
                await self._leadership.acquire(STORED)
                await asyncio.sleep(REFRESH_SECONDS)
                if self._leadership.holds(STORED):
                    await self._store()
            except (LogUnavailable, PositionMoved) as error:
                log.warning("the stored bytes were not written", error=str(error))
            except Exception:
                log.exception("writing the stored bytes failed")

    async def _store(self) -> None:
        """Add the bytes of the events to the table. Raises LogUnavailable, PositionMoved."""
        self.catch_up()
        before, after = self._quotas.usage.stored_from, self._position
        added = self._quotas.usage.unstored()
        if after > before:
            await asyncio.to_thread(self._write, before, after, added)
            self._quotas.usage.note_stored(after)

    def _take_in(self, events: Sequence[Recorded]) -> None:
        quotas, usage = self._quotas, self._quotas.usage
        for recorded in events:
            event = recorded.event
            usage.note(recorded)
            if isinstance(event, JobSubmitted):
                quotas.job_decided(event.client, recorded.stream)
            elif is_job_event(event):
                continue
            elif isinstance(event, MinerRegistered):
                quotas.miner_decided(event.by, event.miner_id)
            elif is_quota_event(event) and recorded.position > self._limits_from:
                quotas.set_own(event.name, event.limits)
        self._position = events[-1].position
        self._watermarks.moved(self.name, self._position)

    # --- in a thread ----------------------------------------------------------------------------------------
    def _read(self) -> _Tables:
        with self._database.transaction() as tables:
            # The position first: an event that comes between the two reads is then taken in twice, and says
            # the same.
            limits_at = tables.position(PROJECTOR)
            limits = [(row["name"], row["limits_json"]) for row in tables.query("quotas_limits")]
            rows = tables.query("quotas_open")
            stored_at, stored = _stored(tables)
        [open_at] = [row["number"] for row in rows if row["kind"] == "position"] or [0]
        own = [OpenRow(**row) for row in rows if row["kind"] != "position"]
        return _Tables(limits_at, limits, open_at, own, stored_at, stored)

    def _write(self, before: int, after: int, added: Mapping[str, int]) -> None:
        with self._database.transaction() as tables:
            # In one order, so that two transactions never wait for each other.
            for name in sorted(added):
                tables.execute("quotas_add_bytes", name=name, payload_bytes=added[name], blob_bytes=0)
            tables.move(STORED, before, after)

    def _read_stored(self) -> tuple[int, list[StoredRow]]:
        with self._database.transaction() as tables:
            return _stored(tables)


def _stored(tables: Tables) -> tuple[int, list[StoredRow]]:
    """Position and rows of the stored bytes, from one snapshot."""
    rows = tables.query("quotas_stored")
    [position] = [row["payload_bytes"] for row in rows if row["kind"] == "position"] or [0]
    return position, [
        StoredRow(row["name"], row["payload_bytes"], row["blob_bytes"])
        for row in rows
        if row["kind"] == "name"
    ]
