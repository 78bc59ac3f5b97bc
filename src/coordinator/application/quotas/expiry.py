"""Expiry: removes what nobody needs any more. One process does it, in small, repeatable pieces.

- Uploads that no command has referred to for BLOB_EXPIRY_HOURS, and that no job needs.
- Payloads and results of jobs that have been final for RETENTION_…_HOURS: by the same command as anybody's
  erasure, which the eraser carries out (`application/followers/eraser.py`).
- Uploads that somebody's erasure left without a job that needs them.
- Miners that have been offline for RETENTION_MINER_HOURS.

A file goes in two steps: first its rows, with a note that its content is to go; then the content, unless a
row names it again or it was stored again a short while ago. A crash in between repeats the second step.

A clock that was set must not remove anything early: after a jump nothing is removed for HOLD_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.followers.eraser import content_key, note_removals
from coordinator.application.ports import (
    BlobRemoval,
    Clock,
    Database,
    EventLog,
    Intent,
    Leadership,
    LogError,
    LogUnavailable,
    PayloadKind,
    PositionMoved,
    Recorded,
    Tables,
)
from coordinator.application.quotas.quotas import Quotas
from coordinator.application.quotas.usage import blob_charge
from coordinator.domain.content import MAX_JOBS, ContentErase
from coordinator.domain.errors import Code
from coordinator.domain.job import JobCompleted, ends_job
from coordinator.domain.messages import SYSTEM
from coordinator.wire.answers import Answer, Refused

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

Send = Callable[[Sequence[Intent]], Awaitable[list[Answer]]]

log = structlog.get_logger("expiry")


class NotErased(Exception):
    """The coordinator's own erasure was refused, which is a fault of ours."""


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
        send: Send,
        ages: Ages,
        interval: float,
    ) -> None:
        """`send`: the gateway."""
        self._log = event_log
        self._database = database
        self._blobs = blobs
        self._leadership = leadership
        self._clock = clock
        self._quotas = quotas
        self._send = send
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
            await self._erase("payload", ages.payloads, now)
        if ages.results:
            await self._erase("result", ages.results, now)
        await self._in_pieces(lambda: self._drop_erased(now - int(CONTENT_SECONDS * 1000)))
        if ages.blobs:
            await self._in_pieces(lambda: self._drop_lost_refs(now - LOST_MILLIS))
            await self._in_pieces(lambda: self._drop_unused(now - ages.blobs * HOUR_MILLIS))
        if ages.miners:
            await self._in_pieces(lambda: self._drop_miners(now - ages.miners * HOUR_MILLIS))
        await self._remove_content(self._clock.now())

    # --- payloads and results -------------------------------------------------------------------------------
    async def _erase(self, kind: PayloadKind, hours: int, now: int) -> None:
        """Ask for the erasure of those of the jobs that have been final for so many hours.

        A position of its own says how far it is. It moves once the erasures are in the log: a crash before
        that asks for the same ones again, which changes nothing.
        """
        cursor, until = f"expiry-{kind}", now - hours * HOUR_MILLIS
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
            jobs = await asyncio.to_thread(self._not_erased, kind, due)
            for start in range(0, len(jobs), MAX_JOBS):
                await self._ask(kind, jobs[start : start + MAX_JOBS], hours)
            reached = due[-1].position
            await asyncio.to_thread(self._move, cursor, position, reached)
            position = reached
            if len(due) < len(events):
                return

    def _not_erased(self, kind: PayloadKind, due: Sequence[Recorded]) -> list[UUID]:
        """The jobs that end with these events and have a payload or result that nobody has erased yet."""
        jobs = {
            content_key(recorded.key, kind): recorded.stream
            for recorded in due
            if ends_job(recorded.event) and (kind == "payload" or isinstance(recorded.event, JobCompleted))
        }
        if not jobs:
            return []
        with self._database.transaction() as tables:
            erased = {row["key"] for row in tables.query("erased_content_of", keys=list(jobs))}
        return [job_id for key, job_id in jobs.items() if key not in erased]

    async def _ask(self, kind: PayloadKind, jobs: Sequence[UUID], hours: int) -> None:
        """Raises LogUnavailable, NotErased."""
        reason = f"older than {hours} {'hour' if hours == 1 else 'hours'}"
        command = ContentErase(job_ids=tuple(jobs), kinds=(kind,), reason=reason)
        [answer] = await self._send([Intent(command, SYSTEM)])
        if isinstance(answer, Refused):
            if answer.code is Code.UNAVAILABLE:
                raise LogUnavailable(answer.detail)
            raise NotErased(f"{answer.code}: {answer.detail}")
        self._quotas.expired[f"{kind}s"] += len(jobs)

    def _position(self, cursor: str) -> int:
        with self._database.transaction() as tables:
            return tables.position(cursor)

    def _move(self, cursor: str, before: int, after: int) -> None:
        with self._database.transaction() as tables:
            tables.move(cursor, before, after)

    # --- uploads --------------------------------------------------------------------------------------------
    def _drop_lost_refs(self, before: int) -> bool:
        """Look for the jobs of some new references; drop those of a refused command, or of erased content.

        A repeated submit notes its references again, also after the erasure of its job's payload.
        """
        with self._database.transaction() as tables:
            rows = tables.query("expiry_new_refs", before=before, count=PIECE)
            contents = {row["key"]: row["key"].partition("/")[2] for row in rows}
            erased = {row["key"] for row in tables.query("erased_content_of", keys=list(contents.values()))}
        if not rows:
            return False
        known = self._log.versions({UUID(row["job_id"]) for row in rows})
        lost = [row for row in rows if UUID(row["job_id"]) not in known or contents[row["key"]] in erased]
        dropped = {row["key"] for row in lost}
        with self._database.transaction() as tables:
            tables.change(
                "blob_refs", {row["key"]: {"at": NEVER} for row in rows if row["key"] not in dropped}
            )
            tables.remove("blob_refs", [row["key"] for row in lost])
            note_removals(tables, {row["digest"] for row in lost}, self._clock.now())
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
            count = self._drop(tables, [row["key"] for row in rows], before)
        self._quotas.expired["uploads"] += count
        return more

    def _drop_erased(self, before: int) -> bool:
        """Drop the next uploads that erased content referred to, unless another job needs them.

        One that was used after `before` stays for now: a command that refers to it may be on its way.
        """
        with self._database.transaction() as tables:
            rows = tables.query("erased_uploads", before=before, count=PIECE)
        if not rows:
            return False
        keys = [row["key"] for row in rows]
        with self._database.transaction() as tables:
            count = self._drop(tables, keys, before)
            left = {row["key"] for row in tables.query("erased_uploads_left", keys=keys)}
            tables.remove("erased_uploads", [key for key in keys if key not in left])
            now = self._clock.now()
            tables.change("erased_uploads", {key: {"at": now} for key in keys if key in left})
        self._quotas.expired["uploads"] += count
        return len(rows) == PIECE

    def _drop(self, tables: Tables, keys: Sequence[str], before: int) -> int:
        """Drop those of these uploads that no job needs, and give their bytes back; their number."""
        # The rows of the names first, as an upload does: two transactions must not wait for each other.
        for name in sorted({key.partition("/")[2] for key in keys}):
            tables.execute("quotas_add_bytes", name=name, payload_bytes=0, blob_bytes=0)
        gone = tables.query("expiry_unused_blobs", keys=keys, before=before)
        freed: dict[str, int] = {}
        for row in gone:
            freed[row["principal"]] = freed.get(row["principal"], 0) + blob_charge(row["size"])
        for name in sorted(freed):
            tables.execute("quotas_add_bytes", name=name, payload_bytes=0, blob_bytes=-freed[name])
        note_removals(tables, {row["digest"] for row in gone}, self._clock.now())
        return len(gone)

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
