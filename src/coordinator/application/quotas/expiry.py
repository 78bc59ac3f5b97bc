"""Expiry: removes what nobody needs any more. One process does it, in small, repeatable pieces.

- Uploads that no command has referred to for BLOB_EXPIRY_HOURS, and that no job needs.
- Payloads and results of jobs that have been final for RETENTION_…_HOURS. The log keeps their digests and
  still verifies; the files that only they needed expire with them.
- Miners that have been offline for RETENTION_MINER_HOURS.

A file goes in two steps: first its rows, with a note that its content is to go; then the content, unless a
row names it again or it was stored again a short while ago. A crash in between repeats the second step.

A clock that was set must not remove anything early: after a jump nothing is removed for HOLD_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.ports import (
    BlobRemoval,
    Clock,
    Database,
    EventLog,
    Leadership,
    LogError,
    PayloadKind,
    PositionMoved,
    Recorded,
    Tables,
)
from coordinator.application.quotas.quotas import Quotas
from coordinator.application.quotas.usage import blob_charge
from coordinator.domain.job import JobCompleted, JobSubmitted, ends_job

PIECE = 200
"""Rows of one transaction."""
PIECES = 50
"""Transactions of one kind in one round; the next round goes on."""
READ_EVENTS = 500
NEVER = 2**53 - 1
"""The age of a reference whose job is in the log: it is looked for only once."""
LOST_MILLIS = 3_600_000
"""A reference that is this old without a job in the log was a refused command's."""
CONTENT_SECONDS = 600.0
"""Content that was stored less than this ago stays: its row may still be on its way."""
JUMP_SECONDS = 60.0
HOLD_SECONDS = 3600.0
HOUR_MILLIS = 3_600_000

log = structlog.get_logger("expiry")


class Ages(NamedTuple):
    """The ages at which things are removed, in hours; 0 for never."""

    blobs: int = 0
    payloads: int = 0
    results: int = 0
    miners: int = 0


class Expiry:
    """Runs a round every `interval` seconds while this process leads."""

    name = "expiry"

    def __init__(
        self,
        event_log: EventLog,
        database: Database,
        blobs: BlobRemoval,
        leadership: Leadership,
        clock: Clock,
        quotas: Quotas,
        ages: Ages,
        interval: float,
    ) -> None:
        self._log = event_log
        self._database = database
        self._blobs = blobs
        self._leadership = leadership
        self._clock = clock
        self._quotas = quotas
        self._ages = ages
        self._interval = interval
        self._offset = self._clock_offset()
        self._held_until = 0.0
        self._after = (0, "")
        """The last upload that was looked at; each round goes on from there."""
        self._task = BackgroundTask("expiry")

    async def start(self) -> None:
        self._task.start(self._run)

    async def stop(self) -> None:
        await self._task.stop()
        await self._leadership.release(self.name)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._leadership.acquire(self.name)
                await self.round()
            except PositionMoved:
                log.warning("another process leads", follower=self.name)
                await self._leadership.release(self.name)
            except LogError as error:
                log.warning("interrupted", follower=self.name, error=str(error))
            except Exception:
                log.exception("a round of the expiry failed; the next one tries again")

    async def round(self) -> None:
        """Remove what is due, up to the bounds of one round. Raises LogUnavailable, PositionMoved."""
        if self._is_held():
            return
        now, ages = self._clock.now(), self._ages
        if ages.payloads:
            await self._erase("payload", now - ages.payloads * HOUR_MILLIS)
        if ages.results:
            await self._erase("result", now - ages.results * HOUR_MILLIS)
        if ages.blobs:
            await self._in_pieces(lambda: self._drop_lost_refs(now - LOST_MILLIS))
            await self._in_pieces(lambda: self._drop_unused(now - ages.blobs * HOUR_MILLIS))
        if ages.miners:
            await self._in_pieces(lambda: self._drop_miners(now - ages.miners * HOUR_MILLIS))
        await self._remove_content(self._clock.now())

    # --- payloads and results -------------------------------------------------------------------------------
    async def _erase(self, kind: PayloadKind, until: int) -> None:
        """Erase those of the jobs that were final at `until`. A position of its own says how far it is."""
        cursor = f"expiry-{kind}"
        position = await asyncio.to_thread(self._position, cursor)
        for _ in range(PIECES):
            events = await asyncio.to_thread(self._log.read, position, READ_EVENTS)
            due: list[Recorded] = []
            for recorded in events:
                if recorded.event.at > until:
                    break
                due.append(recorded)
            if not due or not self._leadership.holds(self.name):
                return
            final = [e for e in due if ends_job(e.event)]
            reached = due[-1].position
            await asyncio.to_thread(self._erase_piece, kind, final, cursor, position, reached)
            position = reached
            self._quotas.expired[f"{kind}s"] += len(final)
            if len(due) < len(events):
                return

    def _erase_piece(
        self, kind: PayloadKind, final: Sequence[Recorded], cursor: str, before: int, after: int
    ) -> None:
        jobs = [e.stream for e in final]
        freed = self._sizes(kind, final) if final else {}
        if jobs:
            self._log.erase(jobs, kind)
        with self._database.transaction() as tables:
            if jobs:
                refs = tables.query("expiry_refs_of_jobs", job_ids=[e.key for e in final], kind=kind)
                if refs:
                    tables.remove("blob_refs", [row["key"] for row in refs])
                    _note_removals(tables, {row["digest"] for row in refs}, self._clock.now())
            for name in sorted(freed):
                tables.execute("quotas_add_bytes", name=name, payload_bytes=-freed[name], blob_bytes=0)
            tables.move(cursor, before, after)

    def _sizes(self, kind: PayloadKind, final: Sequence[Recorded]) -> dict[str, int]:
        """By client: the bytes that these jobs' payloads or results count."""
        sizes: dict[str, int] = {}
        if kind == "result":
            for recorded in final:
                if isinstance(recorded.event, JobCompleted):
                    client = recorded.event.client
                    sizes[client] = sizes.get(client, 0) + recorded.event.result_bytes
            return sizes
        for events in self._log.load([e.stream for e in final]).values():
            first = events[0].event
            if isinstance(first, JobSubmitted):
                sizes[first.client] = sizes.get(first.client, 0) + first.payload_bytes
        return sizes

    def _position(self, cursor: str) -> int:
        with self._database.transaction() as tables:
            return tables.position(cursor)

    # --- uploads --------------------------------------------------------------------------------------------
    def _drop_lost_refs(self, before: int) -> bool:
        """Look for the jobs of some new references; those of a refused command are dropped."""
        with self._database.transaction() as tables:
            rows = tables.query("expiry_new_refs", before=before, count=PIECE)
        if not rows:
            return False
        known = self._log.versions({UUID(row["job_id"]) for row in rows})
        lost = [row for row in rows if UUID(row["job_id"]) not in known]
        with self._database.transaction() as tables:
            tables.change(
                "blob_refs", {row["key"]: {"at": NEVER} for row in rows if UUID(row["job_id"]) in known}
            )
            tables.remove("blob_refs", [row["key"] for row in lost])
            _note_removals(tables, {row["digest"] for row in lost}, self._clock.now())
        return len(rows) == PIECE

    def _drop_unused(self, before: int) -> bool:
        """Drop those of the next uploads, in the order of their last use, that no job needs."""
        with self._database.transaction() as tables:
            after_at, after_key = self._after
            rows = tables.query(
                "expiry_old_blobs", before=before, after_at=after_at, after_key=after_key, count=PIECE
            )
        more = len(rows) == PIECE
        self._after = (rows[-1]["used_at"], rows[-1]["key"]) if more else (0, "")
        if not rows:
            return False
        with self._database.transaction() as tables:
            # The rows of the names first, as an upload does: two transactions must not wait for each other.
            for name in sorted({row["principal"] for row in rows}):
                tables.execute("quotas_add_bytes", name=name, payload_bytes=0, blob_bytes=0)
            gone = tables.query("expiry_unused_blobs", keys=[row["key"] for row in rows], before=before)
            freed: dict[str, int] = {}
            for row in gone:
                freed[row["principal"]] = freed.get(row["principal"], 0) + blob_charge(row["size"])
            for name in sorted(freed):
                tables.execute("quotas_add_bytes", name=name, payload_bytes=0, blob_bytes=-freed[name])
            _note_removals(tables, {row["digest"] for row in gone}, self._clock.now())
        self._quotas.expired["uploads"] += len(gone)
        return more

    async def _remove_content(self, now: int) -> None:
        """Remove the content of blobs that no row names, unless it was stored again a short while ago."""
        for _ in range(PIECES):
            digests = await asyncio.to_thread(self._due_removals, now)
            if not digests:
                return
            done = set(digests)
            needed = await asyncio.to_thread(self._needed, digests)
            for digest in done - needed:
                if not self._leadership.holds(self.name):
                    return
                gone = await self._blobs.delete_older(digest, now / 1000 - CONTENT_SECONDS)
                if gone:
                    self._quotas.expired["files"] += 1
                else:
                    done.discard(digest)
            await asyncio.to_thread(self._end_removals, done, set(digests) - done, now)

    def _due_removals(self, now: int) -> list[str]:
        with self._database.transaction() as tables:
            return [row["digest"] for row in tables.query("expiry_removals", before=now, count=PIECE)]

    def _needed(self, digests: Collection[str]) -> set[str]:
        with self._database.transaction() as tables:
            rows = tables.query("expiry_needed", owned=list(digests), needed=list(digests))
            return {row["digest"] for row in rows}

    def _end_removals(self, done: Collection[str], later: Collection[str], now: int) -> None:
        again = now + int(CONTENT_SECONDS * 1000)
        with self._database.transaction() as tables:
            tables.remove("blob_removals", list(done))
            tables.put("blob_removals", [{"digest": digest, "at": again} for digest in later])

    # --- miners ---------------------------------------------------------------------------------------------
    def _drop_miners(self, before: int) -> bool:
        with self._database.transaction() as tables:
            count = tables.execute("expiry_gone_miners", before=before, count=PIECE)
            if count:
                tables.execute("expiry_gone_sessions")
        self._quotas.expired["miners"] += count
        return count == PIECE

    # --- rounds ---------------------------------------------------------------------------------------------
    async def _in_pieces(self, piece: Callable[[], bool]) -> None:
        """Call this in a thread, until it has no more to do, another process leads, or the round is full."""
        for _ in range(PIECES):
            if not self._leadership.holds(self.name) or not await asyncio.to_thread(piece):
                return

    def _clock_offset(self) -> float:
        return self._clock.now() / 1000 - self._clock.monotonic()

    def _is_held(self) -> bool:
        """Whether the wall clock was set a short while ago."""
        offset = self._clock_offset()
        if abs(offset - self._offset) > JUMP_SECONDS:
            log.warning("the clock was set: nothing expires for now", seconds=round(offset - self._offset))
            self._held_until = self._clock.monotonic() + HOLD_SECONDS
        self._offset = offset
        return self._clock.monotonic() < self._held_until


def _note_removals(tables: Tables, digests: Collection[str], now: int) -> None:
    """Note that the content of these blobs may go; whether it does is decided later."""
    tables.put("blob_removals", [{"digest": digest, "at": now} for digest in digests])
