"""Carries out batches: one process does it, in pieces, at a bounded rate.

The place of a batch is stored after each piece, so that it goes on there after a crash or a takeover. The
piece that was under way is then sent again, which changes nothing: a job is canceled once, and the key of a
job that is submitted again names its batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import structlog

from coordinator.application.background import BackgroundTask
from coordinator.application.batches.batches import BatchState, JobBatch, batch_of, client_of
from coordinator.application.ports import Clock, Database, Intent, Leadership, LogUnavailable
from coordinator.application.search.found import FoundJob
from coordinator.application.search.jobs import JobSearch
from coordinator.application.search.query import JobQuery
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobCancel, JobSubmitAgain
from coordinator.domain.messages import Principal
from coordinator.wire.answers import Accepted, Answer, Refused

PIECE: Final = 50
"""Jobs of one array of commands."""
PAUSE_SECONDS: Final = 0.1
"""Between two pieces, of all batches together: 500 jobs a second at most."""
POLL_SECONDS: Final = 2.0
"""Between looks for batches that another process began."""
RETRY_SECONDS: Final = 1.0
_LATER: Final = frozenset({Code.UNAVAILABLE, Code.RATE_LIMITED, Code.INTERNAL})
"""Refusals that say nothing about the job: the piece is sent again."""
MAX_TRIES: Final = 30
"""Of one piece."""

Send = Callable[[Sequence[Intent]], Awaitable[list[Answer]]]

log = structlog.get_logger("batches")


class _Piece(NamedTuple):
    done: int
    refused: Counter[str]
    position: int
    later: bool
    """Whether it has to be sent again."""


class BatchRunner:
    """A component. It works while this process leads."""

    name = "batches"

    def __init__(
        self,
        database: Database,
        search: JobSearch,
        send: Send,
        leadership: Leadership,
        holds: Callable[[Principal], bool],
        clock: Clock,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`send`: the gateway. `holds`: whether a principal still has a valid key."""
        self._database = database
        self._search = search
        self._send = send
        self._leadership = leadership
        self._holds = holds
        self._clock = clock
        self._pause = pause
        self._woken = asyncio.Event()
        self._tries: Counter[UUID] = Counter()
        self._task = BackgroundTask("batches")

    def wake(self) -> None:
        """A batch was begun."""
        self._woken.set()

    async def start(self) -> None:
        self._task.start(self._run)

    async def stop(self) -> None:
        await self._task.stop()
        await self._leadership.release(self.name)

    async def _run(self) -> None:
        while True:
            try:
                await self._leadership.acquire(self.name)
                self._woken.clear()
                if not await self.round():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL_SECONDS):
                            await self._woken.wait()
            except LogUnavailable as error:
                log.warning("interrupted", error=str(error))
                await self._pause(RETRY_SECONDS)
            except Exception:
                log.exception("a round of batches failed; the next one tries again")
                await self._pause(RETRY_SECONDS)

    async def round(self) -> bool:
        """One piece of each batch that is under way; whether there is any. Raises LogUnavailable."""
        rows = await self._in_thread(lambda tables: tables.query("batches_under_way"))
        for row in rows:
            if not self._leadership.holds(self.name):
                return False
            begun = self._clock.monotonic()
            await self._advance(batch_of(row))
            # As long as the piece took, too: live traffic gets its half of a slow database.
            await self._pause(max(PAUSE_SECONDS, self._clock.monotonic() - begun))
        return bool(rows)

    async def _advance(self, batch: JobBatch) -> None:
        if not self._holds(batch.sender):
            await self._end(
                batch, "STOPPED", f"{batch.principal} has no valid {batch.role.value} key any more"
            )
            return
        try:
            page = await self._search.page(
                client_of(batch.sender),
                JobQuery.parse(batch.query),
                batch.place,
                PIECE,
                oldest_first=True,
                until=batch.created_at,
                now=batch.created_at,
            )
            piece = await self._sent(batch, page.jobs)
        except Refusal as refusal:
            await self._end(batch, "STOPPED", refusal.detail)
            return
        except LogUnavailable:
            raise
        except Exception as error:
            log.exception("a batch failed", batch=str(batch.batch_id))
            await self._end(batch, "STOPPED", f"an error of ours: {type(error).__name__}")
            return
        if piece.later:
            self._tries[batch.batch_id] += 1
            if self._tries[batch.batch_id] >= MAX_TRIES:
                await self._end(batch, "STOPPED", "the coordinator takes no commands; begin it again later")
            else:
                await self._pause(RETRY_SECONDS)
            return
        self._tries.pop(batch.batch_id, None)
        await self._move(batch, piece, page.next_cursor)
        if page.next_cursor is None:
            await self._end(batch, "DONE", "")

    async def _sent(self, batch: JobBatch, jobs: Sequence[FoundJob]) -> _Piece:
        intents = [Intent(_command(batch, job), batch.sender) for job in jobs]
        answers = await self._send(intents) if intents else []
        accepted = [answer for answer in answers if isinstance(answer, Accepted)]
        refused = Counter(answer.code for answer in answers if isinstance(answer, Refused))
        return _Piece(
            done=len(accepted),
            refused=Counter({code.value: number for code, number in refused.items()}),
            position=max((answer.position for answer in accepted), default=batch.position),
            later=not _LATER.isdisjoint(refused),
        )

    async def _move(self, batch: JobBatch, piece: _Piece, place: str | None) -> None:
        refused = Counter(batch.refused) + piece.refused
        await self._in_thread(
            lambda tables: tables.execute(
                "batches_move",
                batch_id=str(batch.batch_id),
                done=batch.done + piece.done,
                refused_json=json.dumps(refused),
                place=place,
                position=piece.position,
            )
        )

    async def _end(self, batch: JobBatch, state: BatchState, why: str) -> None:
        now = self._clock.now()
        await self._in_thread(
            lambda tables: tables.execute(
                "batches_end", batch_id=str(batch.batch_id), state=state, why=why, ended_at=now
            )
        )
        self._tries.pop(batch.batch_id, None)
        log.info("batch ended", batch=str(batch.batch_id), kind=batch.kind, state=state, why=why)

    async def _in_thread(self, work: Callable[[Any], Any]) -> Any:
        def run() -> Any:
            with self._database.transaction() as tables:
                return work(tables)

        return await asyncio.to_thread(run)


def _command(batch: JobBatch, job: FoundJob) -> JobCancel | JobSubmitAgain:
    job_id = UUID(job.job_id)
    if batch.kind == "cancel":
        return JobCancel(job_id=job_id, reason=batch.reason)
    return JobSubmitAgain(job_id=job_id, idempotency_key=f"batch/{batch.batch_id}")
